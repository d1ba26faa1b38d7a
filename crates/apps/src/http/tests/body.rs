//! Where bodies end.

use proptest::prelude::*;

use super::super::body::{Decoder, Framing, Step, TRAILERS_MAX, of_request, of_response, write_last_chunk};
use super::super::head::{Fields, Malformed};
use super::{answering, asking, parsed};

/// Data, trailers if the body ended, and what is left.
type Decoded = (Vec<u8>, Option<Fields>, Vec<u8>);

#[test]
fn a_requests_length_is_clear_or_refused() {
    let of = |version: &str, fields: &str| of_request(&asking(&format!("POST http://a/ {version}"), fields));
    let cases = [
        ("", Ok(Framing::Empty)),
        ("Content-Length: 0\r\n", Ok(Framing::Length(0))),
        ("Content-Length: 12\r\n", Ok(Framing::Length(12))),
        ("Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked)),
        ("Content-Length: +1\r\n", Err(Malformed::Length)),
        ("Content-Length: -1\r\n", Err(Malformed::Length)),
        ("Content-Length: 1 2\r\n", Err(Malformed::Length)),
        ("Content-Length: 0x1\r\n", Err(Malformed::Length)),
        ("Content-Length:\r\n", Err(Malformed::Length)),
        ("Content-Length: 99999999999999999999\r\n", Err(Malformed::Length)),
        ("Content-Length: 5, 5\r\n", Err(Malformed::Length)),
        (
            "Content-Length: 5\r\ncontent-length: 5\r\n",
            Err(Malformed::Length),
        ),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Err(Malformed::TwoLengths),
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            Err(Malformed::TwoLengths),
        ),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(Malformed::Coding)),
        ("Transfer-Encoding: chunked, chunked\r\n", Err(Malformed::Coding)),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Err(Malformed::Coding),
        ),
        ("Transfer-Encoding: xchunked\r\n", Err(Malformed::Coding)),
        ("Transfer-Encoding: \x0bchunked\r\n", Err(Malformed::FieldValue)),
        ("Transfer-Encoding:\r\n", Err(Malformed::Coding)),
    ];
    for (fields, expected) in cases {
        let text = format!("POST http://a/ HTTP/1.1\r\n{fields}\r\n");
        assert_eq!(
            parsed(&text).and_then(|head| of_request(&head)),
            expected,
            "{fields:?}"
        );
    }
    assert_eq!(
        of("HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
        Err(Malformed::TwoLengths)
    );
}

#[test]
fn an_answers_length_depends_on_status_and_method() {
    let of = |status: u16, method: &str, fields: &str| {
        let head = answering(&format!("HTTP/1.1 {status} x\r\n{fields}\r\n")).unwrap();
        of_response(&head, method)
    };
    assert_eq!(of(200, "GET", ""), Ok(Framing::UntilClose));
    assert_eq!(of(200, "GET", "Content-Length: 3\r\n"), Ok(Framing::Length(3)));
    assert_eq!(of(200, "HEAD", "Content-Length: 3\r\n"), Ok(Framing::Empty));
    assert_eq!(of(200, "head", "Content-Length: 3\r\n"), Ok(Framing::Length(3)));
    for status in [100, 103, 204, 304] {
        assert_eq!(
            of(status, "GET", "Transfer-Encoding: chunked\r\n"),
            Ok(Framing::Empty)
        );
    }
    assert_eq!(
        of(200, "GET", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        Err(Malformed::TwoLengths)
    );
}

/// What a decoder makes of bytes that come in pieces.
fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<Decoded, Malformed> {
    let (mut decoder, mut waiting, mut data) = (Decoder::new(framing), Vec::new(), Vec::new());
    let mut end = None;
    for piece in pieces {
        waiting.extend_from_slice(piece);
        while end.is_none() {
            match decoder.step(&waiting)? {
                Step::More => break,
                Step::Framing(len) => drop(waiting.drain(..len)),
                Step::Data(len) => {
                    assert!(len > 0);
                    data.extend(waiting.drain(..len));
                }
                Step::End(trailers) => end = Some(trailers),
            }
        }
    }
    assert!(end.is_none() || decoder.may_end());
    Ok((data, end, waiting))
}

#[test]
fn chunks_are_joined_and_trailers_found_at_every_split() {
    let whole = b"5\r\nhello\r\n00A;x=\"y;\tz\"\r\n, world...\r\n0 \t\r\nSum: 7\r\n\r\nnext";
    for first in 0..=whole.len() {
        for second in [first, (first + whole.len()) / 2, whole.len()] {
            let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
            let (data, trailers, left) = decode(Framing::Chunked, &pieces).unwrap();
            assert_eq!(data, b"hello, world...");
            assert_eq!(trailers.unwrap().all("sum").next(), Some(&b"7"[..]));
            assert_eq!(left, b"next");
        }
    }
    for short in 0..whole.len() - 4 {
        let (_, end, _) = decode(Framing::Chunked, &[&whole[..short]]).unwrap();
        assert_eq!(end, None);
    }
}

#[test]
fn damaged_chunks_are_refused() {
    for bytes in [
        &b"\r\n"[..],
        b"x\r\n",
        b"-1\r\n",
        b"0x5\r\n",
        b"5\nhello",
        b"5\rhello",
        b"5 x\r\nhello",
        b"5;a\nb\r\nhello\r\n",
        b"5\r\nhello0\r\n",
        b"5\r\nhello\n0\r\n",
        b"5\r\nhello\r\r",
        b"11111111111111111\r\n",
        &[b"5;", &[b'x'; 300][..]].concat(),
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\n\r\n\r\n",
        &[b"0\r\n", &vec![b'x'; TRAILERS_MAX][..]].concat(),
    ] {
        assert!(
            decode(Framing::Chunked, &[bytes]).is_err(),
            "{:?}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn lengths_are_kept_to_and_the_end_of_a_connection_may_be_the_end() {
    let (data, end, left) = decode(Framing::Length(5), &[b"hel", b"lo next"]).unwrap();
    assert_eq!(
        (&data[..], end.is_some(), &left[..]),
        (&b"hello"[..], true, &b" next"[..])
    );
    assert!(!Decoder::new(Framing::Length(1)).may_end());
    assert!(!Decoder::new(Framing::Chunked).may_end());
    assert!(Decoder::new(Framing::UntilClose).may_end());
    assert!(decode(Framing::Empty, &[b""]).unwrap().1.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_chunks_give_the_same_at_every_split(
        parts in proptest::collection::vec(prop::sample::select(vec![
            &b"5\r\nhello\r\n"[..], b"0\r\n", b"\r\n", b"A: b\r\n", b"3;x\r\nabc\r\n", b"\n", b"1", b"z", b" ",
        ]), 0..12),
        split in any::<prop::sample::Index>(),
        framing in prop_oneof![
            Just(Framing::Chunked), Just(Framing::Length(7)), Just(Framing::UntilClose), Just(Framing::Empty),
        ],
    ) {
        let bytes = parts.concat();
        let cut = split.index(bytes.len() + 1);
        let whole = decode(framing, &[&bytes]);
        prop_assert_eq!(decode(framing, &[&bytes[..cut], &bytes[cut..]]), whole.clone());
        if let Ok((_, Some(trailers), _)) = whole {
            let mut written = Vec::new();
            write_last_chunk(&trailers, &mut written);
            prop_assert_eq!(decode(Framing::Chunked, &[&written]).unwrap().1, Some(trailers));
        }
    }
}
