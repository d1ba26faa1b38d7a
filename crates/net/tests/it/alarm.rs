//! A mix that somebody cuts off from all others, at its sockets: it says so, hides what it holds, and serves on when it is over.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::common::{Net, still_serves, wait_until};
use mizzle_base::Profile;
use mizzle_net::host::Transport;
use mizzle_net::wire;

/// The mix of the second layer. Packets come to it from the first layer alone.
const MIX_2: usize = 1;
/// Those of its own that it keeps in its pool in an alarm, as docs/spec/loops.md says.
const OWN_IN_POOL: u64 = 20;

/// A place on the line that lets all pass, or nothing.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn shut(&self, shut: bool) {
        *self.0.0.lock().unwrap() = shut;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let shut = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(shut, |shut| *shut).unwrap());
    }

    /// Passes what comes to `to`. Its threads end with their connections.
    fn before(&self, to: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let gate = self.clone();
        thread::spawn(move || {
            for from in listener.incoming() {
                let (from, to) = (from.unwrap(), TcpStream::connect(to).unwrap());
                let ends = |a: &TcpStream, b: &TcpStream| (a.try_clone().unwrap(), b.try_clone().unwrap());
                for (from, to) in [ends(&from, &to), ends(&to, &from)] {
                    let gate = gate.clone();
                    thread::spawn(move || gate.pass(from, to));
                }
            }
        });
        at
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            self.wait();
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Twenty loops a second of each node, of which each is a fifth of a second on its way.
fn profile() -> Profile {
    Profile {
        mean_delay_ms: 20.0,
        node_loop_per_s: 20.0,
        ..Profile::browse()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mix_that_is_cut_off_raises_its_alarm_and_is_well_when_that_is_over() {
    let gate = Gate::default();
    let net = Net::start_with(Transport::Tcp, profile(), |_, node, addresses| {
        if node != MIX_2 {
            return addresses;
        }
        let at = gate.before(wire::socket_address(&addresses[0]).unwrap());
        vec![format!("/ip4/127.0.0.1/tcp/{}", at.port()).parse().unwrap()]
    })
    .await;
    let client = net.client().await;
    let mix = &net.nodes[MIX_2];
    mix.counted("loop.returned", 50).await;
    still_serves(&client).await;

    let (raised, cover) = (
        mix.counters().get("alarm.raised"),
        mix.counters().get("loop.cover"),
    );
    gate.shut(true);
    mix.counted("alarm.raised", raised + 1).await;
    wait_until("the alarm is on", || mix.snapshot().alarms.is_on).await;
    mix.counted("loop.cover", cover + OWN_IN_POOL).await;

    gate.shut(false);
    wait_until("the alarm is over", || !mix.snapshot().alarms.is_on).await;
    still_serves(&client).await;
}
