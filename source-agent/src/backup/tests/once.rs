//! Input that can be read once: a second reading would find nothing.

use super::*;

/// Gives bytes, then does something once before it gives the end, or an error.
struct Breaking<F>(std::io::Cursor<Vec<u8>>, Option<F>);

impl<F: FnOnce() -> std::io::Result<usize>> std::io::Read for Breaking<F> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(into)? {
            0 => self.1.take().map_or(Ok(0), |then| then()),
            bytes => Ok(bytes),
        }
    }
}

/// A set whose input can be read once, as standard input.
pub(super) fn once(
    world: &World,
    bytes: &[u8],
    then: impl FnOnce() -> std::io::Result<usize> + Send + 'static,
) -> SetPlan {
    let input = Breaking(std::io::Cursor::new(bytes.to_vec()), Some(then));
    let from = stream::From::Once(stream::Once::new(input));
    SetPlan { input: Input::Stream { from, name: "all.sql".into() }, ..world.set() }
}

fn assert_holds(world: &World, at: usize, bytes: &[u8]) {
    let found = open_newest(&world.sinks[at], &world.identity);
    assert!(found == BTreeMap::from([("/all.sql".to_owned(), Found::File(bytes.to_vec()))]), "another file");
}

#[test]
fn standard_input_is_never_read_twice() {
    let mut world = World::new(1);
    let bytes = noise(3 << 20, 61);
    let all = |world: &World| run(&mut world.env(), &[once(world, &bytes, || Ok(0))]).unwrap();
    assert!(all(&world).failure.is_none());
    world.sinks[0].lose_archive(0);
    let failure = all(&world).failure.unwrap();
    assert_eq!((failure.code, failure.exit), ("missing-archives", Exit::Failed));
    assert!(failure.help.is_some());
    assert_eq!(world.sinks[0].heads(), 1, "no snapshot without its file");
    assert!(all(&world).failure.is_none());
    assert_holds(&world, 0, &bytes);
    // Archives that lack blocks and are listed as before: what was in them is not taken for known again.
    world.sinks[0].thin_all();
    assert_eq!(all(&world).failure.unwrap().code, "missing-archives");
    world.force = true;
    assert!(all(&world).failure.is_none(), "the whole list brought their presence back");
    assert_holds(&world, 0, &bytes);
}

#[test]
fn a_damaged_index_does_not_make_standard_input_be_read_twice() {
    let world = World::new(1);
    let bytes = noise(3 << 20, 62);
    let index = world.dir.path().join("cache/index.sqlite");
    let breaks = once(&world, b"", move || {
        let connection = rusqlite::Connection::open(index).map_err(std::io::Error::other)?;
        connection.execute_batch("DROP TABLE chunks").map_err(std::io::Error::other)?;
        Ok(0)
    });
    let failure = run(&mut world.env(), &[breaks]).unwrap().failure.unwrap();
    assert_eq!(failure.code, index::DAMAGED);
    assert_eq!(world.sinks[0].heads(), 0);
    assert!(run(&mut world.env(), &[once(&world, &bytes, || Ok(0))]).unwrap().failure.is_none());
    assert_holds(&world, 0, &bytes);
}
