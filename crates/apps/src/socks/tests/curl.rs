//! A real program: curl, where it is installed.

use std::process::Output;

use mizzle_stream::{Isolation, OpenError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::process::Command;

use super::support::{Port, within};

/// Runs curl; `None`, with a word why, where there is none.
async fn curl(arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "15", "--noproxy", ""])
        .args(arguments);
    match within(command.kill_on_drop(true).output()).await {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: curl cannot be run here ({error})");
            None
        }
    }
}

/// A web server for one request; gives back what was asked.
async fn answer_http(mut far: DuplexStream) -> String {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(within(far.read_u8()).await.unwrap());
    }
    far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        .await
        .unwrap();
    far.shutdown().await.unwrap();
    String::from_utf8(asked).unwrap()
}

#[tokio::test]
async fn curl_fetches_a_page_by_name_and_by_address() {
    let mut port = Port::open().await;
    for host in ["example.test", "192.0.2.7", "[2001:db8::1]"] {
        let proxy = format!("socks5h://{}", port.address);
        let url = format!("http://{host}:8080/page");
        let fetch = tokio::spawn(async move { curl(&["--proxy", &proxy, &url]).await });
        let Some(pending) = opening(&mut port, &fetch).await else {
            return;
        };
        assert_eq!(pending.request.target.to_string(), format!("{host}:8080"));
        assert!(matches!(pending.request.isolation, Isolation::Fresh));
        assert!(
            answer_http(pending.accept())
                .await
                .starts_with("GET /page HTTP/1.1\r\n")
        );
        let output = fetch.await.unwrap().unwrap();
        assert_eq!(
            output.stdout,
            b"hello",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test]
async fn curls_user_and_password_are_the_isolation() {
    let mut port = Port::open().await;
    let proxy = format!("socks5h://alice:work@{}", port.address);
    let fetch = tokio::spawn(async move { curl(&["--proxy", &proxy, "http://example.test/"]).await });
    let Some(pending) = opening(&mut port, &fetch).await else {
        return;
    };
    let expected = Isolation::shared(b"alice".to_vec(), b"work".to_vec());
    assert!(pending.request.isolation.may_share(&expected));
    answer_http(pending.accept()).await;
    assert_eq!(fetch.await.unwrap().unwrap().stdout, b"hello");
}

#[tokio::test]
async fn curl_names_the_reason_of_a_failure() {
    let mut port = Port::open().await;
    let proxy = format!("socks5h://{}", port.address);
    let fetch = tokio::spawn(async move { curl(&["--proxy", &proxy, "http://example.test/"]).await });
    let Some(pending) = opening(&mut port, &fetch).await else {
        return;
    };
    pending.refuse(OpenError::Refused);
    let output = fetch.await.unwrap().unwrap();
    // 97: "proxy handshake error"; the 2 is the code of RFC 1928.
    assert_eq!(output.status.code(), Some(97));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("(2)"), "{words}");
}

#[tokio::test]
async fn curl_with_the_wrong_kind_of_proxy_is_told_so() {
    let port = Port::open().await;
    let url = format!("http://{}/", port.address);
    let Some(output) = curl(&[&url]).await else { return };
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("This port speaks SOCKS5, not HTTP.")
    );
    let proxy = format!("socks4a://{}", port.address);
    let Some(output) = curl(&["--proxy", &proxy, "http://example.test/"]).await else {
        return;
    };
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("rejected"), "{words}");
}

/// The opening that curl asks for, unless it couldn't be run.
async fn opening(
    port: &mut Port,
    fetch: &tokio::task::JoinHandle<Option<Output>>,
) -> Option<super::support::Pending> {
    within(async {
        loop {
            if let Ok(pending) = port.openings.try_recv() {
                return Some(pending);
            }
            if fetch.is_finished() {
                return None;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
}
