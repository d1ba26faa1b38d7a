//! A plain web server and a downloader for the measurements: bytes that can be checked, nothing more.
//!
//! `GET /BYTES/SEED` answers so many bytes of a fixed pseudo-random sequence; the downloader computes the same sequence
//! and compares every byte. It speaks SOCKS5 by hand, so that what is timed is what any program does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// A download without a byte for so long has failed.
const STALL: Duration = Duration::from_secs(60);

/// A running server; ends when dropped.
pub struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts it on a free port of the loopback interface.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The sequence: `xorshift64*`, enough to notice any byte out of place.
struct Sequence(u64);

impl Sequence {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Fills `out`, whose length is a multiple of eight but for the last time.
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

async fn serve(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(8_192).read_line(&mut line).await?;
    let mut parts = line.split(['/', ' ']).filter_map(|part| part.parse::<u64>().ok());
    let (Some(bytes), Some(seed)) = (parts.next(), parts.next()) else {
        return stream
            .write_all(b"HTTP/1.0 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            .await;
    };
    while line != "\r\n" && !line.is_empty() {
        line.clear();
        (&mut stream).take(8_192).read_line(&mut line).await?;
    }
    stream
        .write_all(format!("HTTP/1.0 200 OK\r\ncontent-length: {bytes}\r\n\r\n").as_bytes())
        .await?;
    let (mut left, mut sequence, mut buffer) = (bytes, Sequence::new(seed), vec![0; 65_536]);
    while left > 0 {
        let n = left.min(buffer.len() as u64) as usize;
        sequence.fill(&mut buffer[..n]);
        stream.write_all(&buffer[..n]).await?;
        left -= n as u64;
    }
    stream.shutdown().await
}

/// What a download was like.
#[derive(Clone, Copy, Debug)]
pub struct Download {
    /// From the first byte to the proxy to the first byte of the answer.
    pub first_byte: Duration,
    /// All bytes came and were right.
    pub right: bool,
    /// From its begin to its end.
    pub whole: Duration,
    /// The longest time without a byte after the first one.
    pub longest_stall: Duration,
}

/// Downloads so many bytes of a sequence through a SOCKS5 proxy.
///
/// # Errors
/// What the proxy or the connection says.
pub async fn download(proxy: SocketAddr, server: SocketAddr, bytes: u64, seed: u64) -> io::Result<Download> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let SocketAddr::V4(server) = server else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let mut hello = vec![5, 1, 0, 5, 1, 0, 1];
    hello.extend_from_slice(&server.ip().octets());
    hello.extend_from_slice(&server.port().to_be_bytes());
    stream.write_all(&hello).await?;
    let mut reply = [0; 12];
    timeout(STALL, stream.read_exact(&mut reply)).await??;
    if reply[..2] != [5, 0] || reply[3] != 0 {
        return Err(io::Error::other(format!(
            "the proxy answered with SOCKS code {}",
            reply[3]
        )));
    }
    stream
        .write_all(format!("GET /{bytes}/{seed} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut stream = BufReader::with_capacity(65_536, stream);
    timeout(STALL, stream.fill_buf()).await??;
    let first_byte = start.elapsed();
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if timeout(STALL, (&mut stream).take(8_192).read_line(&mut line)).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let (mut left, mut right) = (bytes, true);
    let (mut last, mut longest_stall) = (Instant::now(), Duration::ZERO);
    let (mut sequence, mut got, mut wanted) = (Sequence::new(seed), vec![0; 65_536], vec![0; 65_536]);
    while left > 0 {
        let n = left.min(got.len() as u64) as usize;
        let mut filled = 0;
        while filled < n {
            match timeout(STALL, stream.read(&mut got[filled..n])).await?? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => filled += more,
            }
            longest_stall = longest_stall.max(last.elapsed());
            last = Instant::now();
        }
        sequence.fill(&mut wanted[..n]);
        right &= got[..n] == wanted[..n];
        left -= n as u64;
    }
    Ok(Download {
        first_byte,
        right,
        whole: start.elapsed(),
        longest_stall,
    })
}
