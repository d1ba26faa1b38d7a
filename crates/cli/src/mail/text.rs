//! Numbers and times in words, and what is safe on a terminal.

use std::time::Duration;

/// `1.2 MB`.
pub(crate) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["bytes", "kB", "MB"] {
        if value < 999.5 {
            return match unit {
                "bytes" if n == 1 => "1 byte".into(),
                "bytes" => format!("{n} bytes"),
                unit => format!("{value:.1} {unit}"),
            };
        }
        value /= 1_000.0;
    }
    format!("{value:.1} GB")
}

/// `90 s`, `12 min`, `5 h`, `3 days`.
pub(crate) fn time(time: Duration) -> String {
    let s = time.as_secs_f64().ceil() as u64;
    match s {
        0..=120 => format!("{s} s"),
        121..=7_200 => format!("{} min", s / 60),
        7_201..=172_800 => format!("{} h", s / 3_600),
        _ => format!("{} days", s / 86_400),
    }
}

/// `84 ms`, `1.20 s`.
pub(crate) fn latency(us: u64) -> String {
    match us {
        0..=9_999_999 => format!("{:.0} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// Takes from a text what would make a terminal do things: all control characters but newline and tab, in pieces as
/// they come. Bytes that are no UTF-8 stay as they are.
#[derive(Default)]
pub(super) struct Tame {
    after_c2: bool,
}

impl Tame {
    pub(super) fn tame(&mut self, data: &mut [u8]) {
        for byte in data {
            // C2 80 to C2 9F are the control characters of Latin-1 in UTF-8.
            let high = self.after_c2 && matches!(*byte, 0x80..=0x9f);
            self.after_c2 = *byte == 0xc2;
            match *byte {
                b'\n' | b'\t' => {}
                // As the second byte: a harmless sign that the first goes with.
                0x80..=0x9f if high => *byte = 0xbf,
                0..=0x1f | 0x7f => *byte = b'?',
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let said: Vec<String> = [0, 1, 999, 1_000, 1_234_567, 999_999_999, 4_294_967_296]
            .into_iter()
            .map(bytes)
            .collect();
        assert_eq!(
            said,
            [
                "0 bytes",
                "1 byte",
                "999 bytes",
                "1.0 kB",
                "1.2 MB",
                "1.0 GB",
                "4.3 GB"
            ]
        );
        let said: Vec<String> = [0, 90, 600, 10_000, 400_000]
            .map(|s| time(Duration::from_secs(s)))
            .into();
        assert_eq!(said, ["0 s", "90 s", "10 min", "2 h", "4 days"]);
    }

    #[test]
    fn terminals_are_left_alone_in_whatever_pieces_a_text_comes() {
        let text = "ü\u{9b}31mred\u{1b}[2J\r\n\tok\u{7f}é";
        for size in 1..text.len() {
            let mut tame = Tame::default();
            let mut out = text.as_bytes().to_vec();
            out.chunks_mut(size).for_each(|piece| tame.tame(piece));
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out, "ü\u{bf}31mred?[2J?\n\tok?é");
        }
    }
}
