//! Large things: a directory of 100,000 entries, a sparse file of 5 GiB, a file of many chunks.

use std::io::{Seek, SeekFrom, Write};
use tests::agent::Usual;
use tests::{Chance, tree};

#[test]
fn a_directory_of_100_000_entries() {
    let usual = Usual::on_disk();
    for number in 0..100_000 {
        let path = usual.data.join(format!("entry-{number:06}"));
        if number % 10 == 0 {
            std::fs::write(path, number.to_string()).unwrap();
        } else {
            std::fs::File::create(path).unwrap();
        }
    }
    tree::age(&usual.data);
    usual.source.must_back_up(&usual.data);
    let size = |usual: &Usual| -> u64 {
        usual.vault.files("web1", "archives").iter().map(|file| std::fs::metadata(file).unwrap().len()).sum()
    };
    let first = size(&usual);
    // One change in it stays small: the directory is cut into pieces.
    tree::write(&usual.data.join("entry-050000"), b"changed");
    usual.source.must_back_up(&usual.data);
    let second = size(&usual) - first;
    assert!(second < first / 4, "one changed name cost {second} bytes where all cost {first}");
    usual.must_restore("out");
    usual.vault.must_be_clean();
}

#[test]
fn a_sparse_file_of_5_gib() {
    let usual = Usual::on_disk();
    let mut file = std::fs::File::create(usual.data.join("image")).unwrap();
    let mut chance = Chance::new(9);
    for place in [0, 1 << 30, (4u64 << 30) + 12345, (5u64 << 30) - 4096] {
        file.seek(SeekFrom::Start(place)).unwrap();
        file.write_all(&chance.bytes(4096)).unwrap();
    }
    drop(file);
    usual.source.must_back_up(&usual.data);
    usual.must_restore("out");
}

#[test]
fn a_file_of_many_chunks() {
    let usual = Usual::on_disk();
    let mut chance = Chance::new(10);
    tree::write(&usual.data.join("large"), &chance.bytes(150 << 20));
    tree::write(&usual.data.join("text"), &chance.text(30 << 20));
    usual.source.must_back_up(&usual.data);
    usual.must_restore("out");
    // A change in the middle sends about what changed.
    let before: u64 = usual.vault.files("web1", "archives").iter().map(|f| std::fs::metadata(f).unwrap().len()).sum();
    let mut file = std::fs::OpenOptions::new().write(true).open(usual.data.join("large")).unwrap();
    file.seek(SeekFrom::Start(70 << 20)).unwrap();
    file.write_all(&chance.bytes(1000)).unwrap();
    drop(file);
    usual.source.must_back_up(&usual.data);
    let after: u64 = usual.vault.files("web1", "archives").iter().map(|f| std::fs::metadata(f).unwrap().len()).sum();
    assert!(after - before < 16 << 20, "a change of 1000 bytes sent {} bytes", after - before);
    usual.must_restore("changed");
    usual.vault.must_be_clean();
}
