//! What `remote-sink listen` and its sessions use while much goes on, read from /proc.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The most that was seen, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peak {
    /// The server: its own high-water mark.
    pub listen: u64,
    /// The larger of a session's two processes: the highest mark of all.
    pub process: u64,
    /// What all sessions together held of their own at one moment.
    pub sessions: u64,
    /// Processes of sessions at one moment.
    pub processes: usize,
}

/// Watches a server and the processes that it starts.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Peak>,
}

impl Watch {
    pub fn begin(listen: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = Peak::default();
            loop {
                let last = stopped.load(Ordering::SeqCst);
                look(listen, &mut peak);
                if last {
                    return peak;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, thread }
    }

    /// Looks once more, and tells; also on standard error, for whoever measures.
    pub fn end(self) -> Peak {
        self.stop.store(true, Ordering::SeqCst);
        let peak = self.thread.join().expect("the watch");
        eprintln!("{peak:?} (KiB)");
        peak
    }
}

fn look(listen: u32, peak: &mut Peak) {
    peak.listen = peak.listen.max(field(listen, "VmHWM:").expect("the server runs"));
    let (mut sessions, mut processes) = (0, 0);
    let mut found = children(listen);
    while let Some(process) = found.pop() {
        found.extend(children(process));
        // A process that was just forked is still its parent; one that has ended has no fields.
        if !is_session(process) {
            continue;
        }
        if let (Some(most), Some(own)) = (field(process, "VmHWM:"), field(process, "RssAnon:")) {
            peak.process = peak.process.max(most);
            sessions += own;
            processes += 1;
        }
    }
    peak.sessions = peak.sessions.max(sessions);
    peak.processes = peak.processes.max(processes);
}

fn is_session(process: u32) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{process}/cmdline")) else { return false };
    line.split(|byte| *byte == 0).any(|word| word == b"serve" || word == b"serve-receiver")
}

fn children(process: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// A number of `/proc/PROCESS/status`, in KiB where that is its unit.
pub fn field(process: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(PathBuf::from(format!("/proc/{process}/status"))).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

/// A connection from another address of this machine, as from another host.
pub fn connect_from(host: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(host, 0))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok(stream)
}
