//! Names of users and groups, from /etc/passwd and /etc/group. Where a directory service knows more, the number stays.

use crate::tree::Owner;
use shared::codec::Text;
use std::collections::HashMap;

/// Names by number, read once a run.
#[derive(Debug, Default)]
pub struct Users {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), _, Some(Ok(id))) = (fields.next(), fields.next(), fields.next().map(str::parse)) {
            // The first line of a number names it, as for the C library.
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

impl Users {
    /// An unreadable file only means that numbers stand without names.
    pub fn read() -> Self {
        let read = |path| parse(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()));
        Self { users: read("/etc/passwd"), groups: read("/etc/group") }
    }
    pub fn user(&self, id: u32) -> Owner {
        owner(id, &self.users)
    }
    pub fn group(&self, id: u32) -> Owner {
        owner(id, &self.groups)
    }
}

fn owner(id: u32, names: &HashMap<u32, String>) -> Owner {
    Owner { id, name: names.get(&id).and_then(|name| Text::new(name.as_str()).ok()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_counts() {
        let names = parse("root:x:0:0::/:/bin/sh\ntoor:x:0:\nbroken\nann:x:1000:\n");
        assert_eq!(names.get(&0).map(String::as_str), Some("root"));
        assert_eq!(owner(1000, &names).name.as_deref(), Some("ann"));
        assert_eq!(owner(7, &names).name, None);
    }
}
