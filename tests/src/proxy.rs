//! A TCP proxy that breaks lines: cuts after so many bytes, falls silent, or lets all through and counts.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the proxy does to each connection from now on.
#[derive(Debug, Default)]
struct Plan {
    /// Bytes that may go to the server before the line is cut; `u64::MAX` = all.
    up: AtomicU64,
    /// Bytes that may come back.
    down: AtomicU64,
    /// Instead of cutting: nothing goes through any more, and nobody is told.
    silent: AtomicBool,
    stop: AtomicBool,
    sent_up: AtomicU64,
    sent_down: AtomicU64,
}

/// A proxy in front of a server on this machine.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    plan: Arc<Plan>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Plan::default());
        plan.up.store(u64::MAX, Ordering::SeqCst);
        plan.down.store(u64::MAX, Ordering::SeqCst);
        let shared = plan.clone();
        let acceptor = std::thread::spawn(move || accept(&listener, server, &shared));
        Self { port, plan, acceptor: Some(acceptor) }
    }

    /// From now on each new connection is cut after so many bytes in either direction.
    pub fn cut_after(&self, up: u64, down: u64) {
        self.plan.silent.store(false, Ordering::SeqCst);
        self.plan.up.store(up, Ordering::SeqCst);
        self.plan.down.store(down, Ordering::SeqCst);
    }
    /// From now on nothing is cut.
    pub fn let_through(&self) {
        self.cut_after(u64::MAX, u64::MAX);
    }
    /// From now on each new connection falls silent after so many bytes.
    pub fn silence_after(&self, up: u64, down: u64) {
        self.cut_after(up, down);
        self.plan.silent.store(true, Ordering::SeqCst);
    }
    /// Bytes that went to the server and came back so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.plan.sent_up.load(Ordering::SeqCst), self.plan.sent_down.load(Ordering::SeqCst))
    }
    /// The same, and begins to count again.
    pub fn take_counts(&self) -> (u64, u64) {
        (self.plan.sent_up.swap(0, Ordering::SeqCst), self.plan.sent_down.swap(0, Ordering::SeqCst))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.plan.stop.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port)));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, server: u16, plan: &Arc<Plan>) {
    for client in listener.incoming() {
        if plan.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        let Ok(target) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], server))) else { continue };
        for stream in [&client, &target] {
            // A line that breaks here is what this proxy is for.
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
        }
        let (up, down) = (plan.up.load(Ordering::SeqCst), plan.down.load(Ordering::SeqCst));
        let silent = plan.silent.load(Ordering::SeqCst);
        let broken = Arc::new(AtomicBool::new(false));
        let pump = |from: &TcpStream, to: &TcpStream, allowed: u64, is_up: bool| {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let (plan, broken) = (plan.clone(), broken.clone());
            std::thread::spawn(move || pump(from, to, allowed, is_up, silent, &plan, &broken));
        };
        pump(&client, &target, up, true);
        pump(&target, &client, down, false);
    }
}

fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    mut allowed: u64,
    is_up: bool,
    silent: bool,
    plan: &Plan,
    broken: &AtomicBool,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if plan.stop.load(Ordering::SeqCst) || (broken.load(Ordering::SeqCst) && !silent) {
            break;
        }
        let got = match from.read(&mut buffer) {
            Ok(0) => {
                // One side has said all it had to say.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(n) => n,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        if broken.load(Ordering::SeqCst) {
            if silent {
                continue;
            }
            break;
        }
        let pass = (got as u64).min(allowed) as usize;
        if to.write_all(&buffer[..pass]).is_err() {
            break;
        }
        let counter = if is_up { &plan.sent_up } else { &plan.sent_down };
        counter.fetch_add(pass as u64, Ordering::SeqCst);
        allowed -= pass as u64;
        if pass < got {
            broken.store(true, Ordering::SeqCst);
            if !silent {
                break;
            }
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
