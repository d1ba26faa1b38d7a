//! Runs the process that is looked at under valgrind, and compares what it did with one secret and with another.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use mizzle_sphinx::engines;

use crate::tracee::{self, ALL, SECRETS};

/// What is looked at. Valgrind's CPU has neither AVX-512 nor ADX, so there is no `ifma` and no graviola on it, and what is
/// multiplied alone is dalek's.
const ENGINE: &str = "avx2";

/// Fewer instructions than any of [`ALL`] takes.
const FEW: usize = 1000;

pub(crate) fn run() {
    if cfg!(debug_assertions) {
        println!("SKIPPED: what ships is built with --release, and so must be what is looked at");
        return;
    }
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        println!("SKIPPED: instructions are traced by valgrind: {error}");
        return;
    }
    if !engines().any(|engine| engine.name() == ENGINE) {
        println!("SKIPPED: this CPU has no AVX2, and so valgrind's has none");
        return;
    }
    let mut valgrind = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes", "--log-fd=2"])
        .arg(std::env::current_exe().unwrap())
        .args([tracee::ROLE, ENGINE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = valgrind.stdin.take().unwrap();
    let (stdout, stderr) = (valgrind.stdout.take().unwrap(), valgrind.stderr.take().unwrap());
    let mark = OnceLock::new();
    let mut seen = Seen::default();
    let mut rest = String::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut said = String::new();
            BufReader::new(stdout).read_line(&mut said).unwrap();
            mark.set(u64::from_str_radix(said.trim(), 16).unwrap()).unwrap();
            stdin.write_all(b"\n").unwrap();
        });
        for line in BufReader::with_capacity(1 << 20, stderr).split(b'\n') {
            let line = line.unwrap();
            match Step::parse(&line) {
                Some(step) if step.kind == b'I' && mark.get() == Some(&step.address) => seen.mark(),
                Some(step) => seen.step(step),
                // What valgrind or the process says besides.
                None => rest += &String::from_utf8_lossy(&line),
            }
        }
    });
    assert!(valgrind.wait().unwrap().success(), "{rest}");
    assert_eq!(seen.marks, 2 * ALL.len() * (SECRETS + 1));
}

/// An instruction (`I`), or what one loads (`L`), stores (`S`) or modifies (`M`); and where it is.
#[derive(Clone, Copy, PartialEq)]
struct Step {
    kind: u8,
    address: u64,
}

impl Step {
    /// Of a line `I  0401ab70,3` or ` L 1fff000758,8`.
    fn parse(line: &[u8]) -> Option<Self> {
        let kind = line[..line.len().min(2)].trim_ascii();
        let ([kind @ (b'I' | b'L' | b'S' | b'M')], Some(b' ')) = (kind, line.get(2)) else {
            return None;
        };
        let (address, _) = str::from_utf8(&line[3..]).ok()?.split_once(',')?;
        Some(Self {
            kind: *kind,
            address: u64::from_str_radix(address.trim(), 16).ok()?,
        })
    }

    fn tell(self) -> String {
        format!("{} {:x}", char::from(self.kind), self.address)
    }
}

/// What the process did so far.
#[derive(Default)]
struct Seen {
    /// With the secret behind that which warms up: the others must do the same.
    first: [Vec<Step>; ALL.len()],
    /// They come in pairs.
    marks: usize,
    /// How many steps behind the last mark.
    steps: usize,
}

impl Seen {
    /// Which of [`ALL`] is being done or was, and with which secret.
    fn at(&self) -> (usize, usize) {
        let done = self.marks.saturating_sub(1) / 2;
        (done % ALL.len(), done / ALL.len())
    }

    fn step(&mut self, step: Step) {
        let (what, secret) = self.at();
        if self.marks.is_multiple_of(2) || secret == 0 {
            return;
        }
        if secret == 1 {
            self.first[what].push(step);
        } else if self.first[what].get(self.steps) != Some(&step) {
            let (first, at) = (&self.first[what], self.steps);
            let last = first[..at].iter().rfind(|step| step.kind == b'I');
            panic!(
                "{}: after {at} steps, behind the instruction {}, comes {} with one secret and {} with another",
                ALL[what],
                last.map_or("-".into(), |step| step.tell()),
                first.get(at).map_or("the end".into(), |step| step.tell()),
                step.tell(),
            );
        }
        self.steps += 1;
    }

    fn mark(&mut self) {
        self.marks += 1;
        let steps = std::mem::take(&mut self.steps);
        let (what, secret) = self.at();
        if !self.marks.is_multiple_of(2) || secret < SECRETS {
            return;
        }
        let first = &self.first[what];
        assert_eq!(steps, first.len(), "{}", ALL[what]);
        let instructions = first.iter().filter(|step| step.kind == b'I').count();
        assert!(
            instructions > FEW,
            "{}: only {instructions} instructions",
            ALL[what]
        );
        println!(
            "{}: {instructions} instructions and {} uses of memory, the same for {SECRETS} secrets",
            ALL[what],
            steps - instructions,
        );
    }
}
