mod common;
use common::*;
#[tokio::test(flavor = "multi_thread")]
async fn dbg() {
    let cpu = || { let s = std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<u64> = s.rsplit_once(')').unwrap().1.split_whitespace().filter_map(|x| x.parse().ok()).collect(); f[10]+f[11] };
    let net = Net::start().await;
    let a = cpu();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    eprintln!("without client {}", cpu() - a);
    let c = net.client().await;
    let a = cpu();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    eprintln!("with client {}", cpu() - a);
    for n in &net.nodes { eprintln!("{:?}", n.counters()); }
    eprintln!("{:?}", c.client.snapshot());
}
