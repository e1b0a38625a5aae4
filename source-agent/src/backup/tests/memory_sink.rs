//! A sink in memory that speaks the protocol over a socket pair, and can be down, cut lines and lose archives.

use super::super::push::Dial;
use super::{LINEAGE, SOURCE};
use crate::client::fake::{Sink, patient, welcome};
use crate::client::{Client, Greeting, greet};
use crate::report::{Exit, Failure, Outcome};
use crate::transport::Ending;
use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use shared::codec::{Blob, List, Text};
use shared::format::owner::{BlockName, Substitute};
use shared::format::{Body, Head, Page, Receipt, Region};
use shared::id::{ArchiveId, ArchiveNumber, Digest, Lineage, Salt, SessionId};
use shared::limits::DATA_BYTES_MAX;
use shared::signature::{Object, Plain, Signed, SigningKey, Verified, sign};
use shared::wire::hello::NewestHead;
use shared::wire::reply::SourceList;
use shared::wire::reply::{ArchiveItem, ArchiveList, DamagedItem, DamagedList};
use shared::wire::request::{PushRequest, Query};
use shared::wire::{Damage, HeadItem, HeadList, Missing, RefusalCode, Refused, Reply, Role, SourceItem, Stored};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Clone, Default)]
pub struct Held {
    pub envelopes: HashMap<SessionId, Vec<u8>>,
    /// Region and parts.
    pub archives: BTreeMap<u64, (ArchiveId, Vec<u8>, Vec<u8>)>,
    pub pages: HashMap<Digest, Vec<u8>>,
    pub bodies: HashMap<Digest, Vec<u8>>,
    pub heads: Vec<(Vec<u8>, Vec<u8>)>,
    /// Archives that were written again without blocks that a snapshot may come to need again.
    pub thinned: BTreeSet<u64>,
    /// Other lineages of the source that it says it holds.
    pub lineages: Vec<Lineage>,
    pub substitutes: Vec<Vec<u8>>,
    /// What it says is damaged, and when it looked.
    pub damaged: Vec<DamagedItem>,
    pub checked: i64,
    pub clock: i64,
}

/// Archive and block.
pub type Place = (u64, u32);

pub struct MemorySink {
    name: String,
    pub key: SigningKey,
    held: Arc<Mutex<Held>>,
    down: AtomicBool,
    /// Archives until the line is cut; negative: never.
    cut: Arc<AtomicI64>,
    cut_receipt: Arc<AtomicBool>,
    /// Takes whatever comes, answers no archive, and keeps the line open for ever.
    silent: Arc<AtomicBool>,
    told: Sender<()>,
    /// Says of every snapshot that an archive of it is lacking.
    lying: Arc<AtomicBool>,
    /// What it says its next archive's number is; negative: the truth.
    next_number: Arc<AtomicI64>,
    /// Hears when it has fallen silent.
    pub fell_silent: Receiver<()>,
    connections: AtomicUsize,
    whole_lists: Arc<AtomicUsize>,
    trips: Arc<Trips>,
    /// Takes no new session.
    full: Arc<AtomicBool>,
    /// Archives until the quota is used up, and those that it refused.
    room: Arc<AtomicI64>,
    refused: Arc<AtomicUsize>,
    /// What Welcome says of the quota: of all, and what is left of it.
    quota: Arc<Mutex<Option<(u64, u64)>>>,
}

/// Round trips of the newest connection, counted by a sink that answers as late as it may.
#[derive(Default)]
struct Trips {
    late: AtomicBool,
    count: AtomicUsize,
    /// Those before the first byte of data.
    before_data: Mutex<Option<usize>>,
}

fn own() -> shared::id::VerifyKey {
    super::signing().verify_key()
}

/// Signs what [`MemorySink::forge_all`] puts in the place of archives.
fn stranger() -> SigningKey {
    SigningKey::from_seed(&[66; 32])
}

impl MemorySink {
    pub fn new(at: u8) -> Self {
        let (told, fell_silent) = unbounded();
        Self {
            told,
            fell_silent,
            name: format!("sink{at}"),
            key: SigningKey::from_seed(&[100 + at; 32]),
            held: Arc::default(),
            down: AtomicBool::new(false),
            cut: Arc::new(AtomicI64::new(-1)),
            cut_receipt: Arc::default(),
            silent: Arc::default(),
            lying: Arc::default(),
            next_number: Arc::new(AtomicI64::new(-1)),
            connections: AtomicUsize::new(0),
            whole_lists: Arc::default(),
            trips: Arc::default(),
            full: Arc::default(),
            room: Arc::new(AtomicI64::new(i64::MAX)),
            refused: Arc::default(),
            quota: Arc::default(),
        }
    }
    /// Has room for so many archives more.
    pub fn fill_up_after(&self, archives: i64) {
        self.room.store(archives, Ordering::Relaxed);
        self.refused.store(0, Ordering::Relaxed);
    }
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
    pub fn say_quota(&self, quota: u64, left: u64) {
        *self.quota.lock() = Some((quota, left));
    }
    /// From now on nothing is answered that the sender need not wait for, before that comes for which it must wait: who
    /// waits all the same waits for ever. So what is counted are the round trips that cannot be done without.
    pub fn answer_late(&self) {
        self.trips.late.store(true, Ordering::Relaxed);
    }
    pub fn refuse_envelopes(&self) {
        self.full.store(true, Ordering::Relaxed);
    }
    pub fn trips(&self) -> usize {
        self.trips.count.load(Ordering::Relaxed)
    }
    pub fn trips_before_data(&self) -> Option<usize> {
        *self.trips.before_data.lock()
    }
    pub fn held(&self) -> Held {
        self.held.lock().clone()
    }
    pub fn copy(&self) -> Held {
        self.held()
    }
    pub fn set_back(&self, held: Held) {
        *self.held.lock() = held;
    }
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }
    pub fn cut_after_archives(&self, archives: i64) {
        self.cut.store(archives, Ordering::Relaxed);
    }
    pub fn cut_before_receipt(&self) {
        self.cut_receipt.store(true, Ordering::Relaxed);
    }
    pub fn lie(&self) {
        self.lying.store(true, Ordering::Relaxed);
    }
    pub fn claim_next_number(&self, next: i64) {
        self.next_number.store(next, Ordering::Relaxed);
    }
    /// How often it was asked for all its archives.
    pub fn whole_lists(&self) -> usize {
        self.whole_lists.load(Ordering::Relaxed)
    }
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
    pub fn archives(&self) -> Vec<u64> {
        self.held.lock().archives.keys().copied().collect()
    }
    pub fn heads(&self) -> usize {
        self.held.lock().heads.len()
    }
    pub fn newest(&self) -> Option<Verified<Head>> {
        let held = self.held.lock();
        held.heads.last().map(|(head, _)| Signed::parse(head).unwrap().verify(&own()).unwrap())
    }
    pub fn checkpoints(&self) -> usize {
        let is_checkpoint = |(head, _): &&(Vec<u8>, Vec<u8>)| {
            Signed::<Head>::parse(head).unwrap().verify(&own()).unwrap().is_checkpoint()
        };
        self.held.lock().heads.iter().filter(is_checkpoint).count()
    }
    /// Frees blocks of all archives that are there now; they stay in the list, with number and id.
    pub fn thin_all(&self) {
        let mut held = self.held.lock();
        held.thinned = held.archives.keys().copied().collect();
    }
    /// Lists all its archives under ids that are not theirs.
    pub fn misname_all(&self) {
        for (number, (id, ..)) in &mut self.held.lock().archives {
            *id = ArchiveId::new(*Digest::of(&number.to_le_bytes()).as_bytes());
        }
    }
    /// Puts archives that a stranger signed in the place of all.
    pub fn forge_all(&self) {
        for (id, bytes, _) in self.held.lock().archives.values_mut() {
            let Region { index, envelope, .. } = Region::parse(bytes).unwrap();
            let mut index = index.verify(&own()).unwrap().into_value();
            index.salt = Salt::random();
            let index = sign(index, &stranger()).unwrap();
            let region = Region::new(&index, &envelope.verify(&own()).unwrap()).unwrap();
            (*id, *bytes) = (region.id(), region.as_bytes().to_vec());
        }
    }
    /// Says that these blocks are damaged; it looked at this time, and this is its clock.
    pub fn claim_damage(&self, blocks: &[(u64, u32)], checked: i64, clock: i64) {
        let mut held = self.held.lock();
        let mut bits: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (archive, block) in blocks {
            let bits = bits.entry(*archive).or_default();
            bits.resize(bits.len().max(*block as usize / 8 + 1), 0);
            bits[*block as usize / 8] |= 1 << (block % 8);
        }
        let id = |archive: &u64| held.archives.get(archive).map_or(ArchiveId::new([0; 32]), |(id, ..)| *id);
        let item = |(archive, bits): (&u64, &Vec<u8>)| DamagedItem {
            number: ArchiveNumber::new(*archive).unwrap(),
            id: id(archive),
            blocks: Blob::new(bits.clone()).unwrap(),
        };
        let items = bits.iter().map(item).collect();
        (held.damaged, held.checked, held.clock) = (items, checked, clock);
    }
    pub fn disorder_damage(&self) {
        self.held.lock().damaged.reverse();
    }
    /// Pairs of all records: left, and what stands for it.
    pub fn pairs(&self) -> Vec<(Place, Vec<Place>)> {
        let held = self.held.lock();
        let records = held.substitutes.iter().map(|bytes| verified::<Substitute>(bytes));
        let place = |name: &BlockName| (name.number.get(), name.block);
        records
            .flat_map(|record| {
                let pairs = record.pairs.iter();
                pairs.map(|pair| (place(&pair.left), pair.right.iter().map(place).collect())).collect::<Vec<_>>()
            })
            .collect()
    }
    /// Says that it holds another lineage of the source.
    pub fn hold_lineage(&self, lineage: Lineage) {
        self.held.lock().lineages.push(lineage);
    }
    /// Loses the archive at this place of its list.
    pub fn lose_archive(&self, at: usize) {
        let mut held = self.held.lock();
        let number = *held.archives.keys().nth(at).unwrap();
        held.archives.remove(&number);
    }
}

impl Dial for MemorySink {
    fn name(&self) -> &str {
        &self.name
    }
    fn is_required(&self) -> bool {
        true
    }
    fn dial(&self) -> Outcome<Client> {
        if self.down.load(Ordering::Relaxed) {
            return Err(Failure::new("refused", Exit::Unreachable, "down"));
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        let (held, cut, cut_receipt) = (Arc::clone(&self.held), Arc::clone(&self.cut), Arc::clone(&self.cut_receipt));
        let (silent, lying, told) = (Arc::clone(&self.silent), Arc::clone(&self.lying), self.told.clone());
        let key = SigningKey::from_seed(&self.key.seed());
        let (next_number, whole_lists) = (Arc::clone(&self.next_number), Arc::clone(&self.whole_lists));
        let (trips, full) = (Arc::clone(&self.trips), Arc::clone(&self.full));
        // Who waits for a silent sink in a test waits for ever; who should not have waited, not so long.
        let patience = Duration::from_secs(if trips.late.load(Ordering::Relaxed) { 60 } else { 86_400 });
        let (room, refused, quota) = (Arc::clone(&self.room), Arc::clone(&self.refused), *self.quota.lock());
        let serving = Serving {
            held,
            cut,
            cut_receipt,
            silent,
            lying,
            next_number,
            whole_lists,
            trips,
            full,
            told,
            key,
            room,
            refused,
            quota,
        };
        let (pipe, _thread) = patient(Ending::default(), patience, move |sink| serving.serve(sink));
        greet(pipe, &self.name, &self.key.verify_key(), Greeting::Push { source: SOURCE, lineage: LINEAGE })
    }
}

struct Serving {
    held: Arc<Mutex<Held>>,
    cut: Arc<AtomicI64>,
    cut_receipt: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
    lying: Arc<AtomicBool>,
    next_number: Arc<AtomicI64>,
    whole_lists: Arc<AtomicUsize>,
    trips: Arc<Trips>,
    full: Arc<AtomicBool>,
    told: Sender<()>,
    key: SigningKey,
    room: Arc<AtomicI64>,
    refused: Arc<AtomicUsize>,
    quota: Option<(u64, u64)>,
}

fn stored(digest: Digest, existed: bool) -> Reply {
    Reply::Stored(Stored { digest, existed })
}

fn verified<T: Object>(bytes: &[u8]) -> Verified<T> {
    Signed::parse(bytes).unwrap().verify(&own()).unwrap()
}

impl Serving {
    fn serve(self, sink: &mut Sink) {
        let hello = sink.hello();
        let mut answer = welcome(&hello, Role::Push);
        answer.sink = self.key.verify_key();
        {
            let held = self.held.lock();
            answer.newest = held.heads.last().map(|(head, _)| {
                let head = verified::<Head>(head);
                NewestHead { sequence: head.sequence, digest: head.digest() }
            });
            let next = held.archives.keys().last().map_or(0, |last| last + 1);
            let next = u64::try_from(self.next_number.load(Ordering::Relaxed)).unwrap_or(next);
            answer.next_number = Some(ArchiveNumber::new(next).unwrap());
            answer.damaged = Some(held.damaged.len() as u64).filter(|archives| *archives > 0);
            answer.clock = held.clock;
            answer.free = 1 << 40;
            answer.quota = self.quota.map(|(quota, _)| quota);
            answer.quota_left = self.quota.map(|(_, left)| left);
        }
        sink.welcome(answer, &self.key);
        self.trips.count.store(1, Ordering::Relaxed);
        *self.trips.before_data.lock() = None;
        let mut owed = Vec::new();
        while let Some(request) = sink.push_request() {
            let waits = match &request {
                PushRequest::PutEnvelope(_) | PushRequest::PutPage(_) => true,
                // All archives are asked for before the first is given.
                PushRequest::Query(Query::GetRegion(_) | Query::GetTable(_)) => {
                    owed.len() + 1 < 2 * self.held.lock().archives.len()
                }
                _ => false,
            };
            match self.answer(request, sink) {
                Some(reply) => owed.push(reply),
                None => return,
            }
            if !(waits && self.trips.late.load(Ordering::Relaxed)) {
                owed.drain(..).for_each(|reply| sink.reply(&reply));
                self.trips.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// `None`: the line is cut.
    fn answer(&self, request: PushRequest, sink: &mut Sink) -> Option<Reply> {
        Some(match request {
            PushRequest::Query(query) => self.query(query, sink),
            PushRequest::PutEnvelope(_) if self.full.load(Ordering::Relaxed) => {
                Reply::Refused(Refused::new(RefusalCode::Cap, "too many envelopes today"))
            }
            PushRequest::PutEnvelope(bytes) => {
                let digest = verified::<shared::format::Envelope>(&bytes).digest();
                self.held.lock().envelopes.insert(SessionId::new(*digest.as_bytes()), bytes);
                stored(digest, false)
            }
            PushRequest::PutArchive(region) => return self.archive(region, sink),
            PushRequest::PutPage(bytes) => {
                let digest = Plain::<Page>::parse(&bytes).unwrap().digest();
                self.held.lock().pages.insert(digest, bytes);
                stored(digest, false)
            }
            PushRequest::PutBody(bytes) => self.body(bytes),
            PushRequest::PutHead(bytes) => return self.head(bytes),
            PushRequest::PutSubstitute(bytes) => {
                let record = verified::<Substitute>(&bytes);
                let mut held = self.held.lock();
                for right in record.pairs.iter().flat_map(|pair| pair.right.iter()) {
                    assert_eq!(held.archives[&right.number.get()].0, right.id, "the archives come first");
                }
                held.substitutes.push(bytes);
                stored(record.digest(), false)
            }
            PushRequest::GetDamaged => {
                let held = self.held.lock();
                let items = List::new(held.damaged.clone()).unwrap();
                Reply::Damaged(DamagedList { checked: held.checked, items })
            }
            other => panic!("{other:?}"),
        })
    }

    fn archive(&self, bytes: Vec<u8>, sink: &mut Sink) -> Option<Reply> {
        let region = Region::parse(&bytes).unwrap();
        let index = region.index.clone().verify(&own()).unwrap();
        let envelope = region.envelope.clone().verify(&own()).unwrap();
        let session = SessionId::new(*envelope.digest().as_bytes());
        assert_eq!(index.session, session);
        let enveloped = self.held.lock().envelopes.contains_key(&session);
        assert!(enveloped || self.full.load(Ordering::Relaxed), "the envelope comes first");
        let mut parts = Vec::new();
        while (parts.len() as u64) < index.parts_bytes() {
            match sink.push_request()? {
                PushRequest::Data(data) => {
                    self.trips.before_data.lock().get_or_insert(self.trips.count.load(Ordering::Relaxed));
                    parts.extend_from_slice(&data);
                }
                other => panic!("{other:?}"),
            }
        }
        let mut rest = &parts[..];
        for part in index.parts.iter() {
            let (one, more) = rest.split_at(part.bytes as usize);
            assert_eq!(Digest::of(one), part.hash);
            rest = more;
        }
        if !enveloped {
            return Some(Reply::Refused(Refused::new(RefusalCode::NotFound, "no envelope")));
        }
        if self.cut.fetch_sub(1, Ordering::Relaxed) == 0 {
            return None;
        }
        if self.room.fetch_sub(1, Ordering::Relaxed) <= 0 {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Some(Reply::Refused(Refused::new(RefusalCode::Quota, "the quota is used up")));
        }
        if self.silent.load(Ordering::Relaxed) {
            let _ = self.told.send(());
            while sink.frame().is_some() {}
            // All is taken; the socket stays open on this side.
            loop {
                std::thread::park();
            }
        }
        let id = region.id();
        let mut held = self.held.lock();
        let existed = match held.archives.get(&index.number.get()) {
            Some((known, ..)) if *known == id => true,
            Some(_) => return Some(Reply::Refused(Refused::new(RefusalCode::Conflict, "number taken"))),
            None => false,
        };
        held.archives.insert(index.number.get(), (id, bytes, parts));
        Some(stored(Digest::new(*id.as_bytes()), existed))
    }

    fn body(&self, bytes: Vec<u8>) -> Reply {
        let body = Plain::<Body>::parse(&bytes).unwrap();
        let mut held = self.held.lock();
        let lacking: Vec<Digest> = body.pages.iter().filter(|page| !held.pages.contains_key(*page)).copied().collect();
        let mut archives = Vec::new();
        let mut total = 0;
        for page in body.pages.iter().filter_map(|page| held.pages.get(page)) {
            for entry in Plain::<Page>::parse(page).unwrap().archives.iter() {
                total += 1;
                let number = entry.number.get();
                let lies = archives.is_empty() && self.lying.load(Ordering::Relaxed);
                if lies
                    || held.archives.get(&number).is_none_or(|(id, ..)| *id != entry.id)
                    || held.thinned.contains(&number)
                {
                    archives.push(entry.number);
                }
            }
        }
        let digest = body.digest();
        if lacking.is_empty() && archives.is_empty() {
            held.bodies.insert(digest, bytes);
        }
        let (pages, archives) = (List::new(lacking).unwrap(), List::new(archives).unwrap());
        Reply::Missing(Missing { body: digest, pages, archives, total })
    }

    fn head(&self, bytes: Vec<u8>) -> Option<Reply> {
        let head = verified::<Head>(&bytes);
        let mut held = self.held.lock();
        assert!(held.bodies.contains_key(&head.body), "the body comes first");
        if let Some((_, receipt)) = held.heads.iter().find(|(known, _)| *known == bytes) {
            return Some(Reply::Receipt(receipt.clone()));
        }
        let before = held.heads.last().map(|(head, _)| verified::<Head>(head).digest());
        assert_eq!((head.sequence, head.previous), (held.heads.len() as u64, before), "the chain is unbroken");
        let previous = held.heads.last().map(|(_, receipt)| {
            Signed::<Receipt>::parse(receipt).unwrap().verify(&self.key.verify_key()).unwrap().digest()
        });
        let receipt = Receipt {
            source: SOURCE,
            lineage: LINEAGE,
            sink: self.key.verify_key(),
            sequence: head.sequence,
            head: head.digest(),
            received: 1,
            previous,
            journal: None,
            archives: 0,
            keep_until: None,
        };
        let receipt = sign(receipt, &self.key).unwrap().as_bytes().to_vec();
        held.heads.push((bytes, receipt.clone()));
        if self.cut_receipt.swap(false, Ordering::Relaxed) {
            return None;
        }
        Some(Reply::Receipt(receipt))
    }

    fn query(&self, query: Query, sink: &mut Sink) -> Reply {
        let held = self.held.lock();
        match query {
            Query::Ping => Reply::Pong,
            Query::ListSources => {
                let mut lineages = held.lineages.clone();
                if !(held.archives.is_empty() && held.heads.is_empty()) {
                    lineages.push(LINEAGE);
                }
                let (name, card) = ("web1".parse().unwrap(), Text::truncated("a card"));
                let item = SourceItem { name, source: SOURCE, card, lineages: List::new(lineages).unwrap() };
                Reply::Sources(SourceList { items: List::new(vec![item]).unwrap() })
            }
            Query::ListArchives(query) => {
                if query.from.get() == 0 {
                    self.whole_lists.fetch_add(1, Ordering::Relaxed);
                }
                let items = held
                    .archives
                    .range(query.from.get()..)
                    .map(|(number, (id, ..))| ArchiveItem { number: ArchiveNumber::new(*number).unwrap(), id: *id });
                Reply::Archives(ArchiveList { items: List::new(items.collect()).unwrap(), more: false })
            }
            Query::ListHeads(query) => {
                let items = held.heads.iter().skip(query.from as usize).map(|(head, receipt)| HeadItem {
                    head: Blob::new(head.clone()).unwrap(),
                    receipt: Some(Blob::new(receipt.clone()).unwrap()),
                    content: Damage::Present,
                });
                Reply::Heads(HeadList { items: List::new(items.collect()).unwrap(), more: false })
            }
            Query::GetRegion(query) => match held.archives.get(&query.number.get()) {
                Some((_, region, _)) => Reply::Object(region.clone()),
                None => Reply::Refused(Refused::new(RefusalCode::NotFound, "no such archive")),
            },
            Query::GetTable(query) => {
                let (_, region, parts) = &held.archives[&query.number.get()];
                let index = Region::parse(region).unwrap().index;
                let index = index.clone().verify(&own()).or_else(|_| index.verify(&stranger().verify_key())).unwrap();
                let bytes = index.parts.last().unwrap().bytes as usize;
                let table = &parts[parts.len() - bytes..];
                let mut pieces: Vec<&[u8]> = table.chunks(DATA_BYTES_MAX).collect();
                let last = pieces.pop().unwrap();
                pieces.into_iter().for_each(|piece| sink.reply(&Reply::Piece(piece.to_vec())));
                Reply::Object(last.to_vec())
            }
            other => panic!("{other:?}"),
        }
    }
}
