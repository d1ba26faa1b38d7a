//! Entries of the operator's list as text.

use super::super::Allow;

#[test]
fn entries_read_back_as_written() {
    for text in [
        "127.0.0.0/8",
        "10.0.0.0/8:80-443",
        "[fd00::]/8:80",
        "0.0.0.0/0",
        "[::1]/128",
        "1.2.3.4/32:5",
    ] {
        assert_eq!(Allow::parse(text).unwrap().to_string(), text);
    }
    for (text, full) in [
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.2.3:80", "10.1.2.3/32:80"),
        ("fd00::/8", "[fd00::]/8"),
        ("[::1]:80", "[::1]/128:80"),
    ] {
        assert_eq!(Allow::parse(text).unwrap().to_string(), full);
    }
}

#[test]
fn an_entry_that_cannot_be_read_tells_the_right_form() {
    let cases = [
        ("", "write it like 10.0.0.0/8"),
        ("localhost", "write it like 10.0.0.0/8"),
        ("10.0.0.0.0/8", "write it like"),
        ("[10.0.0.0]/8", "write it like"),
        ("[fd00::/8", "write it like"),
        ("fd00::/8:80", "[fd00::]/8:80"),
        ("10.0.0.0/33", "from 0 to 32, like 10.0.0.0/8"),
        ("10.0.0.0/", "from 0 to 32"),
        ("10.0.0.0/+8", "from 0 to 32"),
        ("[fd00::]/129", "from 0 to 128, like [fd00::]/8"),
        ("10.0.0.0/8:", "like :80 or :80-443"),
        ("10.0.0.0/8:0", "like :80 or :80-443"),
        ("10.0.0.0/8:443-80", "like :80 or :80-443"),
        ("10.0.0.0/8:65536", "like :80 or :80-443"),
        ("10.0.0.0/8:http", "like :80 or :80-443"),
        (
            "10.1.2.3/8:80",
            "write 10.0.0.0/8:80 for the range or 10.1.2.3/32:80 for the address alone",
        ),
        ("[fd00::1]/8", "write [fd00::]/8 for the range or [fd00::1]/128"),
        ("[::ffff:10.0.0.0]/104:80", "write 10.0.0.0/8:80"),
    ];
    for (text, hint) in cases {
        let message = Allow::parse(text).unwrap_err().to_string();
        assert!(message.contains(hint), "{text}: {message}");
    }
}
