//! Parsers and rewriting without sockets.

mod body;
mod forward;
mod head;

use super::head::{HeadEnd, Malformed, RequestHead, ResponseHead, request, response};

pub(super) fn parsed(text: &str) -> Result<RequestHead, Malformed> {
    let len = HeadEnd::default().find(text.as_bytes())?.expect("a whole head");
    assert_eq!(len, text.len());
    request(text.as_bytes())
}

/// A request with this first line and these lines of fields.
pub(super) fn asking(line: &str, fields: &str) -> RequestHead {
    parsed(&format!("{line}\r\n{fields}\r\n")).unwrap()
}

pub(super) fn answering(text: &str) -> Result<ResponseHead, Malformed> {
    let len = HeadEnd::default().find(text.as_bytes())?.expect("a whole head");
    assert_eq!(len, text.len());
    response(text.as_bytes())
}
