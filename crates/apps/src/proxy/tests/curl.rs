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

/// Every way in which curl can ask for a page, and the isolation that it brings along.
#[tokio::test]
async fn curl_fetches_through_every_kind_of_proxy() {
    let mut port = Port::open().await;
    let alice = |password: &[u8]| Isolation::shared(b"alice".to_vec(), password.to_vec());
    for (kind, host, tunnel, isolation) in [
        ("socks4://", "192.0.2.7", false, Isolation::Fresh),
        ("socks4://alice@", "192.0.2.7", false, alice(b"")),
        ("socks4a://", "example.test", false, Isolation::Fresh),
        ("socks4a://alice@", "example.test", false, alice(b"")),
        ("socks5://", "192.0.2.7", false, Isolation::Fresh),
        ("socks5h://alice:work@", "example.test", false, alice(b"work")),
        ("http://", "example.test", false, Isolation::Fresh),
        ("http://alice:work@", "[2001:db8::1]", false, alice(b"work")),
        ("http://", "example.test", true, Isolation::Fresh),
        ("http://alice:work@", "192.0.2.7", true, alice(b"work")),
    ] {
        let proxy = format!("{kind}{}", port.address);
        let url = format!("http://{host}:8080/page?q");
        let mut arguments = vec!["--user-agent", "x", "--proxy", &proxy, &url];
        if tunnel {
            arguments.push("--proxytunnel");
        }
        let arguments: Vec<String> = arguments.into_iter().map(Into::into).collect();
        let fetch = tokio::spawn(async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            curl(&arguments).await
        });
        let Some(pending) = opening(&mut port, &fetch).await else {
            return;
        };
        assert_eq!(
            pending.request.target.to_string(),
            format!("{host}:8080"),
            "{kind}"
        );
        match (&pending.request.isolation, &isolation) {
            (Isolation::Fresh, Isolation::Fresh) => {}
            (given, expected) => assert!(given.may_share(expected), "{kind}"),
        }
        // The server sees the same bytes whichever way they came.
        assert_eq!(
            answer_http(pending.accept()).await,
            format!("GET /page?q HTTP/1.1\r\nHost: {host}:8080\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n"),
            "{kind}"
        );
        let output = fetch.await.unwrap().unwrap();
        assert_eq!(
            output.stdout,
            b"hello",
            "{kind} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test]
async fn curl_uploads_through_the_http_proxy() {
    let mut port = Port::open().await;
    let proxy = format!("http://{}", port.address);
    let data = "x".repeat(100_000);
    // Longer than 1 MiB or unknown, and curl expects 100 before it sends; said here to be sure of it.
    for header in ["Transfer-Encoding: chunked", "Content-Type: x"] {
        let (proxy, data) = (proxy.clone(), data.clone());
        let upload = tokio::spawn(async move {
            let to = "http://example.test/";
            curl(&[
                "--proxy",
                &proxy,
                "-H",
                "Expect: 100-continue",
                "-H",
                header,
                "--data",
                &data,
                to,
            ])
            .await
        });
        let Some(pending) = opening(&mut port, &upload).await else {
            return;
        };
        let mut far = pending.accept();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(far.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("Expect: 100-continue\r\n"), "{head}");
        far.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut got = 0;
        let mut piece = [0; 4096];
        while got < 100_000 {
            let read = within(far.read(&mut piece)).await.unwrap();
            assert!(read > 0, "the upload ended after {got} bytes");
            got += piece[..read].iter().filter(|&&b| b == b'x').count();
        }
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            .await
            .unwrap();
        let output = upload.await.unwrap().unwrap();
        assert_eq!(
            output.stdout,
            b"hello",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test]
async fn curl_shows_why_a_page_can_not_be_had() {
    let mut port = Port::open().await;
    for (kind, tunnel, code, part) in [
        ("http://", false, 0, "the exit found no address for this name"),
        // 56: curl shows the status of a failed CONNECT, not its page.
        ("http://", true, 56, "502"),
        ("socks4a://", false, 97, "rejected"),
    ] {
        let proxy = format!("{kind}{}", port.address);
        let flag = if tunnel { "--proxytunnel" } else { "--no-fail" };
        let fetch =
            tokio::spawn(async move { curl(&["--proxy", &proxy, flag, "http://example.test/"]).await });
        let Some(pending) = opening(&mut port, &fetch).await else {
            return;
        };
        pending.refuse(OpenError::NameNotFound);
        let output = fetch.await.unwrap().unwrap();
        let words = [output.stdout, output.stderr].concat();
        let words = String::from_utf8_lossy(&words);
        assert_eq!(output.status.code(), Some(code), "{words}");
        assert!(words.contains(part), "{words}");
    }
}

#[tokio::test]
async fn curl_without_a_proxy_is_told_what_this_port_is() {
    let port = Port::open().await;
    let url = format!("http://{}/", port.address);
    let Some(output) = curl(&[&url]).await else { return };
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("This port is the proxy of a mixnet"), "{page}");
    let example = format!("curl --proxy socks5h://{} ", port.address);
    assert!(page.contains(&example), "{page}");
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
