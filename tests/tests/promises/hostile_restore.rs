//! Attack 5, from outside: snapshots that a source with its keys made up. Nothing is written outside the target.

use shared::codec::{Blob, List, Text};
use shared::format::snapshot::SealedRoot;
use shared::format::{Body, Head};
use shared::id::{ArchiveNumber, Salt};
use shared::signature::Plain;
use shared::wire::{PushRequest, Reply};
use source_agent::crypto::part::Place as Seal;
use source_agent::crypto::seal;
use source_agent::tree::node::ChunkRef;
use source_agent::tree::node::{Entry, EntryKind, Extent, Node, NodeTop, Owner, Time};
use source_agent::tree::root::{Counts, Root};
use source_agent::tree::table::TableEntry;
use tests::agent::Usual;
use tests::craft::Forger;
use tests::tree;
use tests::wire::{receipt, stored};

fn plain_entry(name: &[u8], kind: EntryKind) -> Entry {
    let owner = Owner { id: 0, name: None };
    let time = Time { seconds: 1_700_000_000, nanoseconds: 0 };
    Entry {
        name: Blob::new(name.to_vec()).unwrap(),
        kind,
        mode: 0o755,
        user: owner.clone(),
        group: owner,
        modified: time,
        changed: time,
        inode: 1,
        size: 0,
        hard_link: None,
        extents: None,
        list: None,
        node: None,
        target: None,
        device: None,
        xattrs: None,
    }
}

/// Builds a snapshot from nodes, bottom up, in one archive.
struct Builder {
    forger: Forger,
    number: ArchiveNumber,
    chunks: Vec<Vec<u8>>,
}

impl Builder {
    fn new(usual: &Usual) -> Self {
        let forger = Forger::from_keys(usual.source.keys(), &usual.owner.key);
        Self { forger, number: ArchiveNumber::new(700).unwrap(), chunks: Vec::new() }
    }
    fn chunk(&mut self, bytes: Vec<u8>) -> ChunkRef {
        let id = self.forger.secret.chunk_namer(&self.forger.lineage).name(&bytes);
        let reference = ChunkRef { id, bytes: bytes.len() as u32, archive: self.number, block: 0 };
        self.chunks.push(bytes);
        reference
    }
    fn file(&mut self, name: &[u8], content: &[u8]) -> Entry {
        let chunk = self.chunk(content.to_vec());
        let extents = List::new(vec![Extent::Chunk(chunk)]).unwrap();
        Entry { size: content.len() as u64, extents: Some(extents), ..plain_entry(name, EntryKind::File) }
    }
    /// A node whose entries are written as they are, even if no honest program would.
    fn node(&mut self, entries: Vec<Entry>) -> NodeTop {
        let node = Node { level: 0, entries: Some(List::new(entries).unwrap()), nodes: None };
        NodeTop { chunk: self.chunk(node.encode()), level: 0 }
    }
    fn directory(&mut self, name: &[u8], entries: Vec<Entry>) -> Entry {
        let node = self.node(entries);
        Entry { node: Some(node), ..plain_entry(name, EntryKind::Directory) }
    }
    /// Pushes it as the newest snapshot.
    fn push(self, usual: &Usual, top: NodeTop) {
        let Self { forger, number, chunks } = self;
        let namer = forger.secret.chunk_namer(&forger.lineage);
        let names =
            chunks.iter().map(|chunk| TableEntry { id: namer.name(chunk), bytes: chunk.len() as u32 }).collect();
        let archive = forger.archive_claiming(number.get(), &[chunks], vec![names]);
        let root = Root {
            top,
            host: Text::new("web1").unwrap(),
            set: Text::new("x").unwrap(),
            paths: List::new(vec![Blob::new(b"/data".to_vec()).unwrap()]).unwrap(),
            tags: List::empty(),
            counts: Counts::default(),
            started: 1,
            finished: 2,
            program: Text::new("forger").unwrap(),
            entry: None,
        };
        let salt = Salt::random();
        let place = Seal::Root { source: forger.source, lineage: forger.lineage, salt, session: forger.session() };
        let sealed = seal::seal_small(forger.session_secret.as_bytes(), &place, &root.encode()).unwrap();
        let root = SealedRoot { salt, plain: sealed.plain, sealed: Blob::new(sealed.bytes).unwrap() };
        let page = forger.page(&[(&archive, 1)]);
        let body = Plain::new(Body { pages: List::new(vec![page.digest()]).unwrap(), root }).unwrap();
        let text = std::fs::read_to_string(usual.vault.root.join("sink.key")).unwrap();
        let sink = shared::keyfile::read_signing_key(shared::keyfile::SINK_KEY, &text).unwrap().verify_key();
        let mut client = forger.connect(&usual.vault, &sink);
        stored(client.ask(&PushRequest::PutEnvelope(forger.envelope.as_bytes().to_vec())));
        stored(client.put_archive(&archive.region, &archive.parts));
        stored(client.ask(&PushRequest::PutPage(page.as_bytes().to_vec())));
        let Reply::Missing(missing) = client.ask(&PushRequest::PutBody(body.as_bytes().to_vec())) else {
            panic!("body")
        };
        assert!(missing.is_empty(), "{missing:?}");
        let previous = usual
            .vault
            .files("web1", "heads")
            .last()
            .map(|file| shared::signature::Signed::<Head>::parse(&std::fs::read(file).unwrap()).unwrap().digest());
        let sequence = usual.vault.files("web1", "heads").len() as u64;
        let head = forger.sign(forger.head(sink, sequence, previous, body.digest()));
        receipt(client.ask(&PushRequest::PutHead(head.as_bytes().to_vec())), &head, &sink);
    }
}

/// Restores into a directory beside something precious; whatever comes of it, nothing around the target may change.
fn restore_harmlessly(usual: &Usual, name: &str) -> tests::Done {
    let guard = usual.place.dir("guard");
    tree::write(&guard.join("precious"), b"precious");
    let around = |dir: &std::path::Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name != "target");
        names.sort();
        names
    };
    let before = (around(&guard), around(usual.place.path()));
    let done = usual.reader.restore("latest", &guard.join("target")).arg("-v").done();
    let after = (around(&guard), around(usual.place.path()));
    assert_eq!(before, after, "{name}: something outside the target changed\n{}", done.tell());
    assert_eq!(std::fs::read(guard.join("precious")).unwrap(), b"precious", "{name}\n{}", done.tell());
    for stream in [&done.stdout, &done.stderr] {
        assert!(!stream.contains(&0x1b), "{name}: an escape reached the terminal\n{}", done.tell());
    }
    assert!(done.exit().is_some(), "{name}: killed\n{}", done.tell());
    done
}

#[test]
fn names_cannot_leave_the_target() {
    for name in [&b".."[..], b".", b"a/b", b"/etc/x", b"../../guard/precious", b"a\0b", b""] {
        let usual = Usual::new();
        let mut builder = Builder::new(&usual);
        let bad = builder.file(name, b"evil");
        let good = builder.file(b"zzz-good", b"good");
        let data = builder.directory(b"data", vec![bad, good]);
        let top = builder.node(vec![data]);
        builder.push(&usual, top);
        let done = restore_harmlessly(&usual, &String::from_utf8_lossy(name));
        assert_eq!(done.exit(), Some(13), "{}", done.tell());
    }
}

#[test]
fn a_symlink_is_not_followed_by_what_comes_after_it() {
    let usual = Usual::new();
    let precious = usual.place.join("guard");
    let mut builder = Builder::new(&usual);
    // The same name twice: first a link to elsewhere, then a directory with a file.
    let link = Entry {
        target: Some(Blob::new(precious.display().to_string().into_bytes()).unwrap()),
        ..plain_entry(b"way", EntryKind::Symlink)
    };
    let evil = builder.file(b"precious", b"overwritten");
    let directory = builder.directory(b"way", vec![evil]);
    let top = builder.node(vec![link, directory]);
    builder.push(&usual, top);
    restore_harmlessly(&usual, "a link and a directory of one name");
}

#[test]
fn links_to_outside_are_only_links() {
    let usual = Usual::new();
    let precious = usual.place.join("guard/precious");
    let mut builder = Builder::new(&usual);
    let link = Entry {
        target: Some(Blob::new(precious.display().to_string().into_bytes()).unwrap()),
        mode: 0o777,
        ..plain_entry(b"link", EntryKind::Symlink)
    };
    let top = builder.node(vec![link]);
    builder.push(&usual, top);
    let done = restore_harmlessly(&usual, "a link outside");
    assert_eq!(done.exit(), Some(0), "{}", done.tell());
    assert_eq!(std::fs::read_link(usual.place.join("guard/target/link")).unwrap(), precious);
}

#[test]
fn a_second_restore_does_not_write_through_planted_links() {
    // The target holds a link (from an earlier restore, or planted): with --overwrite always it is replaced, not followed.
    let usual = Usual::new();
    let mut builder = Builder::new(&usual);
    let file = builder.file(b"file", b"new content");
    let inside = builder.file(b"inside", b"new content");
    let dir = builder.directory(b"dir", vec![inside]);
    let top = builder.node(vec![dir, file]);
    builder.push(&usual, top);
    let guard = usual.place.dir("guard2");
    tree::write(&guard.join("precious"), b"precious");
    let target = guard.join("target");
    std::fs::create_dir(&target).unwrap();
    std::os::unix::fs::symlink("../precious", target.join("file")).unwrap();
    std::os::unix::fs::symlink("..", target.join("dir")).unwrap();
    usual.reader.restore("latest", &target).args(["--overwrite", "always"]).done();
    assert_eq!(std::fs::read(guard.join("precious")).unwrap(), b"precious");
    assert!(!guard.join("inside").exists(), "written through a planted link");
}

#[test]
fn escapes_in_names_reach_no_terminal() {
    let usual = Usual::new();
    let mut builder = Builder::new(&usual);
    let file = builder.file(b"\x1b]0;title\x07\x1b[2J", b"x");
    let top = builder.node(vec![file]);
    builder.push(&usual, top);
    restore_harmlessly(&usual, "escape");
    for words in [&["ls", "latest"][..], &["ls", "--recursive", "-l", "latest"], &["find", "*title*"]] {
        let done = usual.reader.owner_run(words).done();
        assert!(!done.stdout.contains(&0x1b) && !done.stderr.contains(&0x1b), "{}", done.tell());
    }
}

#[test]
fn a_directory_that_contains_itself_ends() {
    // Content addressing makes a true circle impossible; a tower of 5000 directories is the nearest thing.
    let usual = Usual::new();
    let mut builder = Builder::new(&usual);
    let mut entry = builder.directory(b"d", Vec::new());
    for _ in 0..5000 {
        entry = builder.directory(b"d", vec![entry]);
    }
    let top = builder.node(vec![entry]);
    builder.push(&usual, top);
    let done = restore_harmlessly(&usual, "a tower of directories");
    assert_ne!(done.exit(), Some(0), "deeper than the format allows\n{}", done.tell());
    // Deeper than the standard library removes.
    tests::Run::new(tests::programs::tool("rm")).arg("-rf").arg(usual.place.join("guard")).ok();
}
