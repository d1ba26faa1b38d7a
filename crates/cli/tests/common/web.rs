//! A web server on this machine, plain or with TLS.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection};

use super::{LIMIT, pattern};

/// A web server that answers `GET /N` with N bytes of the pattern, and keeps who connected.
pub struct Web {
    scheme: &'static str,
    pub address: SocketAddr,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    begun: Receiver<()>,
}

impl Web {
    pub fn start() -> Self {
        Self::with("http", serve)
    }

    fn with<S>(scheme: &'static str, serve: S) -> Self
    where
        S: Fn(TcpStream, &mpsc::Sender<()>) -> io::Result<()> + Clone + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let peers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&peers);
        let (begin, begun) = mpsc::channel();
        // Ends with the process.
        std::thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                seen.lock().expect("not poisoned").push(peer);
                let (begin, serve) = (begin.clone(), serve.clone());
                std::thread::spawn(move || serve(stream, &begin));
            }
        });
        Self {
            scheme,
            address,
            peers,
            begun,
        }
    }

    /// With TLS, and a certificate of its own for 127.0.0.1 and localhost; with the certificate, as PEM.
    pub fn start_tls() -> (Self, String) {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.key_pair.serialize_der());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a key of this certificate");
        let config = Arc::new(config);
        let web = Self::with("https", move |mut stream, begin| {
            let mut tls = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            let done = serve(rustls::Stream::new(&mut tls, &mut stream), begin);
            tls.send_close_notify();
            tls.complete_io(&mut stream)?;
            done
        });
        (web, made.cert.pem())
    }

    pub fn url(&self, bytes: usize) -> String {
        format!("{}://{}/{bytes}", self.scheme, self.address)
    }

    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().expect("not poisoned").clone()
    }

    /// Waits until somebody has asked for something, once for each.
    pub fn asked(&self) {
        self.begun.recv_timeout(LIMIT).expect("a request in time");
    }
}

fn serve(stream: impl Read + Write, begin: &mpsc::Sender<()>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut line) = (String::new(), String::new());
    (&mut stream).take(8_192).read_line(&mut first)?;
    while line != "\r\n"
        && (&mut stream).take(8_192).read_line({
            line.clear();
            &mut line
        })? > 0
    {}
    let wanted = first
        .split(['/', ' '])
        .find_map(|part| part.parse::<usize>().ok());
    let body = pattern(wanted.unwrap_or(0));
    let _ = begin.send(());
    let stream = stream.get_mut();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}
