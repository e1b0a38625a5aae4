//! Attack 4: the wire. Another host behind the address, cut lines at many places, silence, replay.

use shared::wire::{Reply, request};
use tests::agent::Owner;
use tests::proxy::Proxy;
use tests::server::{Listen, Sshd, account, free_port};
use tests::wire::{Client, hello};
use tests::{Agent, Chance, Place, Vault, tree};

/// A source that reaches `listen` through a proxy; the reader does not.
struct Scene {
    place: Place,
    vault: Vault,
    listen: Listen,
    proxy: Proxy,
    source: Agent,
    reader: Agent,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        let vault = Vault::new(place.path());
        let listen = Listen::start(&vault);
        let proxy = Proxy::new(listen.port);
        let owner = Owner::new(place.path());
        let source = Agent::source(place.path(), "web1", &owner);
        let address = format!("backup@127.0.0.1:{}", proxy.port);
        source.add_remote("offsite", &vault.enroll(&source.card, "push", &address, &[]));
        let reader = Agent::reader(place.path(), "laptop", &owner);
        reader.add_remote("offsite", &vault.enroll(&reader.card, "read", &listen.address(), &[]));
        reader.trust(&source);
        Self { place, vault, listen, proxy, source, reader }
    }

    fn must_restore(&self, data: &std::path::Path, target: &str) {
        let target = self.place.join(target);
        self.reader.restore_path("latest", data, &target).ok();
        tree::assert_same(data, &target);
    }
}

#[test]
fn a_line_cut_anywhere_costs_at_most_that_run() {
    let scene = Scene::new();
    let data = scene.place.join("data");
    let mut chance = Chance::new(1);
    tree::sample(&data, &mut chance, 20);
    tree::write(&data.join("large"), &chance.bytes(3 << 20));
    scene.source.run().args(["remote", "test", "offsite"]).ok();
    scene.source.attempts(1);
    scene.proxy.take_counts();
    scene.source.must_back_up(&data);
    let (up, down) = scene.proxy.take_counts();
    assert!(up > 3 << 20, "{up} bytes went up");

    // Cut in the handshake, in the data, around the commit; in either direction.
    let ups = [0, 21, 500, 2000, 5000, up / 4, up / 2, up - 20_000, up - 3000, up - 1000, up - 200];
    let downs = [0, 21, 500, 2000, 3000, down / 2, down - 600, down - 300, down - 100];
    let cuts = ups.map(|up| (up, u64::MAX)).into_iter().chain(downs.map(|down| (u64::MAX, down)));
    for (number, (up, down)) in cuts.enumerate() {
        tree::write(&data.join("large"), &chance.bytes(3 << 20));
        scene.proxy.cut_after(up, down);
        let done = scene.source.backup(&data).done();
        assert!(
            matches!(done.exit(), Some(0 | 1 | 14)),
            "cut after {up} up or {down} down: only 'unreachable' and success are right\n{}",
            done.tell()
        );
        scene.proxy.let_through();
        scene.source.must_back_up(&data);
        scene.vault.must_be_clean();
        if number % 4 == 0 {
            scene.must_restore(&data, &format!("restored-{number}"));
        }
    }
    scene.must_restore(&data, "restored-last");
    drop(scene.listen);
}

#[test]
fn what_was_acknowledged_is_not_sent_again() {
    let scene = Scene::new();
    let data = scene.place.join("data");
    let mut chance = Chance::new(2);
    for number in 0..24 {
        tree::write(&data.join(format!("file-{number}")), &chance.bytes(4 << 20));
    }
    let total = 24u64 << 22;
    // The machine dies in the middle: first the line falls silent, then the run is killed.
    scene.proxy.silence_after(total / 2, u64::MAX);
    let mut running = scene.source.backup(&data).begin();
    tests::run::until("half of it went up", std::time::Duration::from_secs(300), || {
        scene.proxy.counts().0 >= total / 2 || running.is_over()
    });
    // The line is silent and open: what the sink has received whole it makes durable, however slow it is.
    tests::run::until("something is durable at the sink", std::time::Duration::from_secs(60), || {
        !scene.vault.files("web1", "archives").is_empty()
    });
    running.kill();
    assert_ne!(running.end().exit(), Some(0));
    let acknowledged: u64 =
        scene.vault.files("web1", "archives").iter().map(|file| std::fs::metadata(file).unwrap().len()).sum();
    scene.proxy.let_through();
    scene.proxy.take_counts();
    scene.source.must_back_up(&data);
    let (up, _) = scene.proxy.take_counts();
    assert!(up < total - acknowledged + (16 << 20), "{up} bytes of {total} were sent though {acknowledged} were there");
    scene.must_restore(&data, "out");
    scene.vault.must_be_clean();
}

#[test]
fn a_run_survives_cut_lines_by_itself() {
    let scene = Scene::new();
    let data = scene.place.join("data");
    let mut chance = Chance::new(7);
    for number in 0..24 {
        tree::write(&data.join(format!("file-{number}")), &chance.bytes(4 << 20));
    }
    let total = 24u64 << 22;
    scene.source.attempts(5);
    // Every connection is cut after about half of it.
    scene.proxy.cut_after(total / 2, u64::MAX);
    scene.proxy.take_counts();
    scene.source.must_back_up(&data);
    let (up, _) = scene.proxy.take_counts();
    assert!(up < total / 4 * 7, "{up} bytes were sent for {total}");
    scene.must_restore(&data, "out");
    scene.vault.must_be_clean();
}

#[test]
fn another_host_behind_the_address_is_not_talked_to() {
    let scene = Scene::new();
    let data = scene.place.join("data");
    tree::sample(&data, &mut Chance::new(3), 5);
    scene.source.must_back_up(&data);
    let port = scene.listen.port;
    scene.listen.stop();
    // The same vault's data, another host key: only the key tells.
    let other = Vault::with(scene.place.path(), "other", None);
    let impostor = Listen::start_at(&other, port).expect("the impostor listens");
    let done = scene.source.backup(&data).done().code_in(&[13, 14]).helps();
    assert!(done.err().to_lowercase().contains("host key"), "{}", done.tell());
    scene.reader.owner_run(&["snapshots"]).done().code_in(&[13, 14]).helps();
    drop(impostor);
    scene.source.backup(&data).done().code(14).helps();
}

#[test]
fn another_host_key_at_sshd_is_refused() {
    let Some(account) = account() else { return };
    let place = Place::new();
    let vault = Vault::with(place.path(), "vault", Some(account.clone()));
    let sshd = Sshd::start(place.path(), account);
    let owner = Owner::new(place.path());
    let source = Agent::source(place.path(), "web1", &owner);
    let host_key = sshd.host_key_file();
    let more = ["--host-key", &*host_key.to_string_lossy()];
    let enrolled = vault.enroll(&source.card, "push", &sshd.address(), &more);
    sshd.authorize(&enrolled.line);
    source.add_remote("offsite", &enrolled);
    let data = place.join("data");
    tree::sample(&data, &mut Chance::new(4), 5);
    source.must_back_up(&data);
    let _sshd = sshd.with_other_host_key();
    let done = source.backup(&data).done().code_in(&[13, 14]).helps();
    assert!(done.err().to_lowercase().contains("host key"), "{}", done.tell());
}

#[test]
fn nobody_there_is_exit_14() {
    let place = Place::new();
    let vault = Vault::new(place.path());
    let owner = Owner::new(place.path());
    let source = Agent::source(place.path(), "web1", &owner);
    let listen = Listen::start(&vault);
    let enrolled = vault.enroll(&source.card, "push", &listen.address(), &[]);
    source.add_remote("offsite", &enrolled);
    drop(listen);
    tree::write(&place.join("data/file"), b"x");
    source.backup(&place.join("data")).done().code(14).helps();
    // Somebody there who is no SSH server.
    let port = free_port();
    let text = std::fs::read_to_string(source.config()).unwrap();
    let moved = text.replace(&enrolled.card.port.to_string(), &port.to_string());
    std::fs::write(source.config(), moved).unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let talker = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        // It may hang up on us first.
        let _ = stream.write_all(b"\x1b[31mHTTP/1.0 400 what?\r\n\r\n");
    });
    let done = source.backup(&place.join("data")).done().code(14).helps();
    assert!(!done.stderr.contains(&0x1b), "an escape reached the terminal\n{}", done.tell());
    talker.join().unwrap();
}

#[test]
fn a_replayed_session_changes_nothing() {
    // What one session sent, sent again word for word in another: everything exists, nothing is new.
    let place = Place::new();
    let vault = Vault::new(place.path());
    let forger = tests::craft::Forger::new("web1");
    let sink = forger.enroll(&vault).card.sink;
    let archive = forger.junk(0, 50_000);
    let play = |client: &mut Client| -> Vec<u8> {
        let body = forger.push_content(client, &archive);
        let head = forger.sign(forger.head(sink, 0, None, body));
        tests::wire::receipt(client.ask(&shared::wire::PushRequest::PutHead(head.as_bytes().to_vec())), &head, &sink)
    };
    // `push_content` draws a fresh body each time; record its bytes as the wire saw them.
    let mut client = forger.connect(&vault, &sink);
    play(&mut client);
    drop(client);
    let files = vault.accepted("web1");
    let mut client = forger.connect(&vault, &sink);
    let envelope = forger.envelope.as_bytes().to_vec();
    assert!(tests::wire::stored(client.ask(&shared::wire::PushRequest::PutEnvelope(envelope))));
    assert!(tests::wire::stored(client.put_archive(&archive.region, &archive.parts)));
    let page = std::fs::read(&vault.files("web1", "pages")[0]).unwrap();
    assert!(tests::wire::stored(client.ask(&shared::wire::PushRequest::PutPage(page))));
    let body = std::fs::read(&vault.files("web1", "bodies")[0]).unwrap();
    assert!(matches!(client.ask(&shared::wire::PushRequest::PutBody(body)), Reply::Missing(m) if m.is_empty()));
    let head = std::fs::read(&vault.files("web1", "heads")[0]).unwrap();
    let receipt = std::fs::read(&vault.files("web1", "receipts")[0]).unwrap();
    assert_eq!(client.ask(&shared::wire::PushRequest::PutHead(head)), Reply::Receipt(receipt));
    drop(client);
    assert_eq!(files, vault.accepted("web1"));
    // A recorded welcome does not answer a fresh nonce.
    let mut client = Client::start(vault.serve("web1", "push"));
    client.send(&request::hello_frame(&hello(Some((forger.source, forger.lineage)))));
    let Reply::Welcome(one) = client.reply() else { panic!("no welcome") };
    drop(client);
    let mut client = Client::start(vault.serve("web1", "push"));
    client.send(&request::hello_frame(&hello(Some((forger.source, forger.lineage)))));
    let Reply::Welcome(two) = client.reply() else { panic!("no welcome") };
    let nonce = |bytes: &[u8]| {
        shared::signature::Signed::<shared::wire::Welcome>::parse(bytes).unwrap().verify(&sink).unwrap().nonce
    };
    assert_ne!(nonce(&one), nonce(&two));
}

#[test]
fn a_silent_line_ends_the_session_at_the_sink() {
    let scene = Scene::new();
    let data = scene.place.join("data");
    let mut chance = Chance::new(5);
    tree::write(&data.join("large"), &chance.bytes(4 << 20));
    scene.vault.configure("serve", "idle-timeout = \"3s\"");
    scene.proxy.silence_after(2 << 20, u64::MAX);
    let mut running = scene.source.backup(&data).begin();
    // The sink gives the dead session up, so the same source can push from elsewhere.
    let direct = scene.source.clone_to(&scene.place.join("direct"));
    let text = std::fs::read_to_string(direct.config()).unwrap();
    let port = scene.proxy.port.to_string();
    std::fs::write(direct.config(), text.replace(&port, &scene.listen.port.to_string())).unwrap();
    tests::run::until("the sink lets the next session in", std::time::Duration::from_secs(180), || {
        direct.backup(&data).done().exit() == Some(0)
    });
    running.kill();
    running.end();
    scene.vault.must_be_clean();
}
