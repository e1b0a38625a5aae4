//! Extended attributes from run to run: what the local index remembers of them is what was read.

use super::*;
use crate::index::record;
use crate::index::series::SeriesIndex;
use crate::tree::Entry;
use rustix::fs::XattrFlags;

fn set_attribute(path: &Path, name: &str) {
    rustix::fs::setxattr(path, name, b"1", XattrFlags::empty()).unwrap();
}

/// Names of the attributes of what lies in the data directory, as the last snapshot has them.
fn attributes(world: &World, name: &str) -> Vec<String> {
    let env = world.env();
    let series = env.secret.series(&world.set().series);
    let index = SeriesIndex::open(&env.cache_dir, &SOURCE, &LINEAGE, &series).unwrap();
    let path = world.data().into_os_string().into_encoded_bytes();
    let row = index.reader().unwrap().dir(&path).unwrap().unwrap();
    let records = record::read_all(&row.records).unwrap();
    let found = records.iter().find(|record| record.name == name.as_bytes()).unwrap();
    let entry: Entry = minicbor::decode(found.entry).unwrap();
    let names = entry.xattrs.iter().flat_map(|all| all.iter());
    names.map(|xattr| String::from_utf8_lossy(&xattr.name).into_owned()).collect()
}

#[test]
fn turning_the_option_on_or_off_changes_unchanged_files() {
    let world = World::new(1);
    world.write("file", b"1");
    world.write("dir/file", b"2");
    std::os::unix::fs::symlink("file", world.data().join("link")).unwrap();
    for name in ["file", "dir"] {
        set_attribute(&world.data().join(name), "user.note");
    }
    age(&world);
    let run_with = |xattrs: bool| {
        let mut set = world.set();
        set.options.xattrs = xattrs;
        let report = run(&mut world.env(), &[set]).unwrap();
        assert!(report.failure.is_none());
        report.sets[0].met.bytes_read.get()
    };
    let note = ["user.note".to_owned()];
    for (xattrs, read) in [(true, 2), (true, 0), (false, 2), (false, 0), (true, 2), (true, 0)] {
        assert_eq!(run_with(xattrs), read, "{xattrs}");
        let wanted: &[String] = if xattrs { &note } else { &[] };
        for name in ["file", "dir"] {
            assert_eq!(attributes(&world, name), wanted, "{name}");
        }
        assert!(attributes(&world, "link").is_empty());
    }
}
