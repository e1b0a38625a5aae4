//! A cache bounded in bytes: what was used longest ago goes first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

pub struct Lru<K, V> {
    bytes_max: usize,
    bytes: usize,
    clock: u64,
    items: HashMap<K, (V, usize, u64)>,
    order: BTreeMap<u64, K>,
}

impl<K: Hash + Eq + Clone, V: Clone> Lru<K, V> {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, clock: 0, items: HashMap::new(), order: BTreeMap::new() }
    }

    pub fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let (value, _, used) = self.items.get_mut(key)?;
        self.order.remove(used);
        *used = self.clock;
        self.order.insert(self.clock, key.clone());
        Some(value.clone())
    }

    pub fn contains(&self, key: &K) -> bool {
        self.items.contains_key(key)
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (value, bytes, used) = self.items.remove(key)?;
        self.bytes -= bytes;
        self.order.remove(&used);
        Some(value)
    }

    /// All values, in no order.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.items.into_values().map(|(value, ..)| value)
    }

    pub fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Puts a value that takes about so many bytes in; the newest stays even if it is larger than the cache.
    pub fn put(&mut self, key: K, value: V, bytes: usize) {
        self.clock += 1;
        if let Some((_, old, used)) = self.items.insert(key.clone(), (value, bytes, self.clock)) {
            self.bytes -= old;
            self.order.remove(&used);
        }
        self.bytes += bytes;
        self.order.insert(self.clock, key);
        while self.bytes > self.bytes_max && self.items.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((_, bytes, _)) = self.items.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes() {
        let mut cache = Lru::new(3);
        for key in 0..3 {
            cache.put(key, key, 1);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.put(3, 3, 1);
        assert_eq!((cache.get(&1), cache.get(&0), cache.get(&3)), (None, Some(0), Some(3)));
        cache.put(4, 4, 9);
        assert_eq!((cache.get(&0), cache.get(&4)), (None, Some(4)));
        assert_eq!((cache.remove(&4), cache.remove(&4), cache.bytes), (Some(4), None, 0));
    }
}
