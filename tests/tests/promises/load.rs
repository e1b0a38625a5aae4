//! Load: many sources at once, many who only stand in the door, and some who send junk for as long as they may. Whoever
//! is honest is served, nothing is lost, and memory stays within what docs/performance.md says.

use shared::codec::List;
use shared::format::Region;
use shared::id::{ArchiveNumber, Digest, Salt, VerifyKey};
use shared::wire::request::{self, GetParts};
use shared::wire::{PushRequest, Query, ReadRequest, RefusalCode, Reply, Request, write_frame};
use source_agent::crypto::seal::Sealed;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tests::agent::{Agent, Owner};
use tests::craft::{Crafted, Forger};
use tests::load::{Peak, Watch, connect_from};
use tests::server::{Listen, ssh};
use tests::wire::{Client, hello, receipt, refused_as, stored};
use tests::{Chance, Place, Run, Vault, tree};

/// What docs/performance.md states, in KiB: the server; the larger process of a session, with the program's own pages;
/// what both processes of a session hold of their own, on average of many.
const LISTEN_KIB: u64 = 96 << 10;
const PROCESS_KIB: u64 = 32 << 10;
const SESSION_KIB: u64 = 12 << 10;
const SOURCES: usize = 50;
const CROWD: usize = 200;

/// A server, one honest source with a snapshot, and one who restores.
struct Scene {
    // The server ends before its directory goes.
    listen: Listen,
    vault: Vault,
    sink: VerifyKey,
    honest: Agent,
    reader: Agent,
    data: PathBuf,
    chance: Chance,
    place: Place,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        let vault = Vault::new(place.path());
        let listen = Listen::start(&vault);
        let owner = Owner::new(place.path());
        let honest = Agent::source(place.path(), "honest", &owner);
        let enrolled = vault.enroll(&honest.card, "push", &listen.address(), &[]);
        honest.add_remote("offsite", &enrolled);
        let reader = Agent::reader(place.path(), "laptop", &owner);
        reader.add_path(
            "local",
            &vault,
            &vault.enroll(&reader.card, "read", "backup@127.0.0.1:22", &["--of", "honest"]),
        );
        reader.trust(&honest);
        let data = place.dir("data");
        let mut scene =
            Self { listen, vault, sink: enrolled.card.sink, honest, reader, data, chance: Chance::new(50), place };
        scene.change(0);
        scene.honest.must_back_up(&scene.data);
        scene
    }

    /// Something new to back up.
    fn change(&mut self, number: usize) {
        tree::write(&self.data.join(format!("new-{number}")), &self.chance.bytes(6 << 20));
    }

    /// Somebody with a key of their own.
    fn enroll(&self, name: &str, role: &str, more: &[&str]) -> Stranger {
        let (forger, key) = Forger::with_ssh_key(name, self.place.path());
        self.vault.enroll(&forger.card.to_string(), role, &self.listen.address(), more);
        Stranger { forger, key }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.listen.port))
    }

    fn ssh(&self, stranger: &Stranger) -> Run {
        ssh(&stranger.key, self.listen.port).arg("-T").arg("backup@127.0.0.1")
    }

    fn push(&self, stranger: &Stranger) -> Client {
        Client::push(self.ssh(stranger), stranger.forger.source, stranger.forger.lineage, &self.sink)
    }

    /// Memory was bounded, nothing was lost, and the honest source's newest state comes back whole.
    #[track_caller]
    fn must_be_well(&self, peak: Peak) {
        assert!(peak.listen < LISTEN_KIB, "{peak:?}");
        assert!(peak.process < PROCESS_KIB, "{peak:?}");
        assert!(peak.sessions < SESSION_KIB * (peak.processes as u64 / 2), "{peak:?}");
        self.vault.must_be_clean();
        let target = self.place.join("out");
        self.reader.restore_path("latest", &self.data, &target).ok();
        tree::assert_same(&self.data, &target);
    }
}

struct Stranger {
    forger: Forger,
    key: PathBuf,
}

/// Does all of it at once, and waits for all.
fn at_once<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(|| work(item))).collect();
        threads.into_iter().map(|thread| thread.join().expect("one of many")).collect()
    })
}

/// Envelope, some archives, page and body. The archives hold noise: the sink could not tell.
fn push_all(forger: &Forger, client: &mut Client, noise: &[u8]) -> Digest {
    stored(client.ask(&PushRequest::PutEnvelope(forger.envelope.as_bytes().to_vec())));
    let archives: Vec<Crafted> = (0..3).map(|number| noisy(forger, number, noise)).collect();
    for archive in &archives {
        client.send_archive(archive.region.as_bytes(), &archive.parts);
    }
    for _ in &archives {
        assert!(!stored(client.reply()));
    }
    let page = forger.page(&archives.iter().map(|archive| (archive, archive.index.blocks())).collect::<Vec<_>>());
    stored(client.ask(&PushRequest::PutPage(page.as_bytes().to_vec())));
    let body = forger.body(&[&page]);
    match client.ask(&PushRequest::PutBody(body.as_bytes().to_vec())) {
        Reply::Missing(missing) => assert!(missing.is_empty(), "{missing:?}"),
        other => panic!("body: {other:?}"),
    }
    body.digest()
}

fn noisy(forger: &Forger, number: u64, noise: &[u8]) -> Crafted {
    let parts = noise.chunks(1 << 20).chain([&noise[..4096]]);
    let sealed = |bytes: &[u8]| Sealed { bytes: bytes.to_vec(), hash: Digest::of(bytes), plain: Digest::of(bytes) };
    forger.archive_of(ArchiveNumber::new(number).unwrap(), Salt::random(), &parts.map(sealed).collect::<Vec<_>>())
}

#[test]
fn fifty_sources_push_at_once() {
    let mut scene = Scene::new();
    let noise = Chance::new(51).bytes(2 << 20);
    let sources: Vec<_> = (0..SOURCES).map(|number| scene.enroll(&format!("web{number}"), "push", &[])).collect();
    let watch = Watch::begin(scene.listen.id());
    // All are inside before the first one pushes, and stay until all have pushed.
    let sessions = at_once(sources, |stranger| (scene.push(&stranger), stranger));
    scene.change(1);
    let honest = scene.honest.backup(&scene.data).begin();
    let sessions = at_once(sessions, |(mut client, stranger)| {
        let body = push_all(&stranger.forger, &mut client, &noise);
        (client, stranger, body)
    });
    let names = at_once(sessions, |(mut client, Stranger { forger, .. }, body)| {
        let head = forger.sign(forger.head(scene.sink, 0, None, body));
        receipt(client.ask(&PushRequest::PutHead(head.as_bytes().to_vec())), &head, &scene.sink);
        client.close_input();
        assert!(client.must_end().is_empty());
        forger.name
    });
    honest.end().code(0);
    let peak = watch.end();
    assert!(peak.processes >= 2 * SOURCES, "{peak:?}");
    for name in names {
        assert_eq!((scene.vault.files(&name, "heads").len(), scene.vault.files(&name, "archives").len()), (1, 3));
    }
    scene.must_be_well(peak);
}

/// Connections of another host that never log in: silent ones, ones that never end their first line, and ones that
/// never end their first packet, a byte at a time. Each that is closed comes again.
struct Crowd {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

const HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const WORDS: [&[u8]; 4] = [b"", b"SSH-2.0-slow", b"SSH-2.0-slow\r\n", b"SSH-2.0-slow\r\n\x00\x00\x80\x00\x06\x14"];

impl Crowd {
    fn gather(to: SocketAddr) -> Self {
        let mut all: Vec<(TcpStream, usize)> = (0..CROWD).map(|_| (connect_from(HOST, to).unwrap(), 0)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut again = 0;
            while !stopped.load(Ordering::SeqCst) {
                let mut round = 10;
                for (number, (stream, said)) in all.iter_mut().enumerate() {
                    if is_open(stream, WORDS[number % WORDS.len()], said) || round == 0 {
                        continue;
                    }
                    round -= 1;
                    if let Ok(next) = connect_from(HOST, to) {
                        (*stream, *said, again) = (next, 0, again + 1);
                    }
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            again
        });
        Self { stop, thread }
    }

    /// How often one of them was shown the door and came again.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the crowd")
    }
}

/// Says the next byte; is the connection open?
fn is_open(stream: &mut TcpStream, words: &[u8], said: &mut usize) -> bool {
    let would_block = |e: std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
    if stream.read(&mut [0; 4096]).map_or_else(would_block, |bytes| bytes > 0) {
        // The third kind falls silent behind its line, the others go on for ever.
        let next = words.get(*said).or(if words.ends_with(b"\n") { None } else { words.last() });
        let Some(byte) = next else { return true };
        *said += 1;
        return stream.write(&[*byte]).map_or_else(would_block, |_| true);
    }
    false
}

#[test]
fn two_hundred_in_the_door_keep_nobody_out() {
    let mut scene = Scene::new();
    let idler = scene.enroll("idler", "push", &[]);
    let web = scene.enroll("web1", "push", &[]);
    let watch = Watch::begin(scene.listen.id());
    let crowd = Crowd::gather(scene.address());
    // And some whose key is known, and who then say nothing.
    let idle: Vec<Client> = (0..8).map(|_| Client::start(scene.ssh(&idler))).collect();
    for number in 1..4 {
        scene.change(number);
        scene.honest.must_back_up(&scene.data);
    }
    let mut client = scene.push(&web);
    push_all(&web.forger, &mut client, &Chance::new(52).bytes(1 << 20));
    drop((client, idle));
    assert!(crowd.end() > 0, "the door never closed on any of {CROWD}");
    scene.must_be_well(watch.end());
}

/// Bytes of junk after which those who send it rest, whatever the others do.
const JUNK: u64 = 1 << 30;

struct Junk<'a> {
    scene: &'a Scene,
    sent: AtomicU64,
    enough: AtomicBool,
}

impl Junk<'_> {
    fn goes_on(&self) -> bool {
        !self.enough.load(Ordering::SeqCst) && self.sent.load(Ordering::SeqCst) < JUNK
    }
    fn count(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    /// At the door, without a key.
    fn at_the_door(&self) {
        let noise = Chance::new(1).bytes(1 << 20);
        while self.goes_on() {
            let mut stream = TcpStream::connect(self.scene.address()).unwrap();
            // The server hangs up at some point of it.
            let said = noise.chunks(4096).take_while(|part| stream.write_all(part).is_ok()).count();
            self.count(said * 4096);
        }
    }

    /// Instead of a greeting.
    fn instead_of_a_greeting(&self, stranger: &Stranger) {
        let noise = Chance::new(2).bytes(8 << 20);
        while self.goes_on() {
            let mut client = Client::start(self.scene.ssh(stranger));
            client.raw(&noise);
            client.must_end();
            self.count(noise.len());
        }
    }

    /// Announced as an archive, and not what was announced.
    fn as_archives(&self, stranger: &Stranger) {
        let forger = &stranger.forger;
        let archive = noisy(forger, 0, &Chance::new(3).bytes(8 << 20));
        let noise = Chance::new(4).bytes(archive.parts.len());
        while self.goes_on() {
            let mut client = self.scene.push(stranger);
            stored(client.ask(&PushRequest::PutEnvelope(forger.envelope.as_bytes().to_vec())));
            client.send_archive(archive.region.as_bytes(), &noise);
            refused_as(client.reply(), &[RefusalCode::Signature]);
            client.must_end();
            self.count(noise.len());
        }
    }

    /// Well made and far beyond the quota: passed over, for as long as a session may last.
    fn beyond_the_quota(&self, stranger: &Stranger) {
        let noise = Chance::new(5).bytes(8 << 20);
        let archives: Vec<_> = (0..4).map(|number| noisy(&stranger.forger, number, &noise)).collect();
        let mut client = self.scene.push(stranger);
        let envelope = stranger.forger.envelope.as_bytes().to_vec();
        stored(client.ask(&PushRequest::PutEnvelope(envelope)));
        while self.goes_on() {
            for archive in &archives {
                client.send_archive(archive.region.as_bytes(), &archive.parts);
                self.count(archive.parts.len());
            }
            for _ in &archives {
                refused_as(client.reply(), &[RefusalCode::Quota]);
            }
        }
        assert!(matches!(client.query(Query::Ping), Reply::Pong), "still in step");
    }
}

/// Asks for far more than it will ever take.
fn ask_and_never_read(scene: &Scene, stranger: &Stranger) -> Child {
    let file = std::fs::read(&scene.vault.files("honest", "archives")[0]).unwrap();
    let (region, _) = Region::parse_prefix(&file).unwrap();
    let (index, _) = region.verify(&scene.honest.keys().signing.verify_key()).unwrap();
    let parts = List::new((0..index.blocks()).collect()).unwrap();
    let (source, lineage, number) = (index.source, index.lineage, index.number);
    let ask = ReadRequest::GetParts(GetParts { source, lineage, number, parts }).frame();
    let mut words = Vec::new();
    for frame in std::iter::once(request::hello_frame(&hello(None))).chain((0..100).map(|_| ask.clone())) {
        write_frame(&mut words, frame.tag, &frame.payload).unwrap();
    }
    let mut child = scene.ssh(stranger).start();
    child.stdin.as_mut().unwrap().write_all(&words).unwrap();
    child
}

#[test]
fn junk_keeps_nobody_out_and_fills_nothing() {
    let mut scene = Scene::new();
    let (loud, liar) = (scene.enroll("loud", "push", &[]), scene.enroll("liar", "push", &[]));
    let greedy = scene.enroll("greedy", "push", &["--quota", "1MiB"]);
    let deaf = scene.enroll("deaf", "read", &["--of", "honest"]);
    let watch = Watch::begin(scene.listen.id());
    let mut children: Vec<Child> = (0..4).map(|_| ask_and_never_read(&scene, &deaf)).collect();
    scene.change(1);
    scene.change(2);
    let junk = Junk { scene: &scene, sent: AtomicU64::new(0), enough: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        scope.spawn(|| junk.at_the_door());
        scope.spawn(|| junk.instead_of_a_greeting(&loud));
        scope.spawn(|| junk.as_archives(&liar));
        scope.spawn(|| junk.beyond_the_quota(&greedy));
        // Whatever happens here, the others end.
        let _enough = Enough(&junk.enough);
        // Once everybody is at it.
        tests::run::until("junk comes", Duration::from_secs(120), || junk.sent.load(Ordering::SeqCst) > 64 << 20);
        for file in ["new-1", "new-2"] {
            scene.honest.must_back_up(&scene.data.join(file));
        }
        scene.honest.must_back_up(&scene.data);
    });
    let peak = watch.end();
    eprintln!("{} MiB of junk", junk.sent.load(Ordering::SeqCst) >> 20);
    for child in &mut children {
        assert!(child.try_wait().unwrap().is_none(), "it still waits for somebody to read");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for name in ["loud", "liar", "greedy"] {
        assert!(scene.vault.files(name, "archives").is_empty() && scene.vault.files(name, "staging").is_empty());
    }
    scene.must_be_well(peak);
}

struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
