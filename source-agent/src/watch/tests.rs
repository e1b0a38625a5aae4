//! Random histories of a source and its sink: honest ones with a crash at every step never alarm; every dishonest or
//! doubled one does.

use super::*;
use crate::client::fake::{LINEAGE, PUSH, SOURCE, Sink, sink, sink_key, source_key, welcome};
use crate::client::{Client, greet};
use crate::report::{Exit, Failure};
use proptest::prelude::*;
use shared::codec::{Blob, List};
use shared::format::receipt::Receipt;
use shared::format::snapshot::{Body, FLAG_CHECKPOINT, Head, SealedRoot};
use shared::id::{Chain, Digest, Salt, Series, SessionId};
use shared::signature::{Plain, Signed, SigningKey, Verified, sign};
use shared::wire::hello::NewestHead;
use shared::wire::reply::{Damage, HeadItem, HeadList};
use shared::wire::request::{PushRequest, Query};
use shared::wire::{Reply, Role};
use std::path::Path;

fn chain() -> Chain {
    Chain { source: SOURCE, lineage: LINEAGE, sink: sink_key().verify_key() }
}

fn body(number: u64) -> Plain<Body> {
    let mut sealed = vec![0; 4096];
    sealed[..8].copy_from_slice(&number.to_le_bytes());
    let root = SealedRoot { salt: Salt::new([1; 32]), plain: Digest::of(b"p"), sealed: Blob::new(sealed).unwrap() };
    Plain::new(Body { pages: List::empty(), root }).unwrap()
}

fn head_by(key: &SigningKey, next: Next, number: u64, flags: u8, state: &ChainState) -> Verified<Head> {
    let head = Head {
        source: SOURCE,
        lineage: LINEAGE,
        sink: sink_key().verify_key(),
        sequence: next.sequence,
        previous: next.previous,
        series: Series::new([0; 16]),
        flags,
        created: number as i64,
        session: SessionId::new([0; 32]),
        body: body(number).digest(),
        remotes: List::empty(),
        reason: state.resume_reason.clone(),
    };
    sign(head, key).unwrap()
}

/// An honest sink: heads in a row, receipts for them, the last one perhaps not yet.
#[derive(Clone, Default)]
struct Model {
    heads: Vec<Verified<Head>>,
    receipts: Vec<Verified<Receipt>>,
}

impl Model {
    fn newest(&self) -> Option<NewestHead> {
        self.heads.last().map(|head| NewestHead { sequence: head.sequence, digest: head.digest() })
    }
    /// Takes a head as it was signed, or the same once more.
    fn put(&mut self, bytes: &[u8]) {
        let head = Signed::<Head>::parse(bytes).unwrap().verify(&source_key().verify_key()).unwrap();
        if self.heads.last().map(Verified::digest) == Some(head.digest()) {
            return;
        }
        assert_eq!(head.sequence, self.heads.len() as u64, "an honest sink refuses a gap");
        assert_eq!(head.previous, self.heads.last().map(Verified::digest), "and another predecessor");
        self.heads.push(head);
    }
    /// The receipt of the newest head.
    fn receipt(&mut self) -> Verified<Receipt> {
        while self.receipts.len() < self.heads.len() {
            let head = &self.heads[self.receipts.len()];
            let receipt = Receipt {
                source: head.source,
                lineage: head.lineage,
                sink: head.sink,
                sequence: head.sequence,
                head: head.digest(),
                received: 1000 + head.sequence as i64,
                previous: self.receipts.last().map(Verified::digest),
                journal: None,
                archives: 0,
                keep_until: None,
            };
            self.receipts.push(sign(receipt, &sink_key()).unwrap());
        }
        self.receipts.last().unwrap().clone()
    }
    fn items(&self) -> Vec<HeadItem> {
        let item = |(at, head): (usize, &Verified<Head>)| HeadItem {
            head: Blob::new(head.as_bytes().to_vec()).unwrap(),
            receipt: self.receipts.get(at).map(|receipt| Blob::new(receipt.as_bytes().to_vec()).unwrap()),
            content: Damage::Present,
        };
        self.heads.iter().enumerate().map(item).collect()
    }
    fn roll_back(&mut self, to: usize) {
        self.heads.truncate(to);
        self.receipts.truncate(to);
    }
}

/// Where a run is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Never,
    /// The head is durable here and was not sent.
    BeforeSending,
    /// The sink has the head and made no receipt.
    BeforeReceipt,
    /// The receipt got lost on its way.
    BeforeAcknowledging,
}

/// One run from the durable state on, as `backup` does it.
fn run(dir: &Path, sink: &mut Model, number: u64, flags: u8, cut: Cut) -> Result<(), Failure> {
    let mut state = load(dir, &chain())?;
    let next = loop {
        match judge(&state, sink.newest().as_ref()) {
            Verdict::Continue(next) => break next,
            Verdict::Alarm(failure) => return Err(failure),
            Verdict::ResendPending | Verdict::AdoptPending => {
                let (head, _) = state.pending(&source_key().verify_key())?.unwrap();
                sink.put(head.as_bytes());
                state.acknowledge(dir, &sink.receipt())?;
            }
        }
    };
    let head = head_by(&source_key(), next, number, flags, &state);
    state.begin(dir, &head, &body(number))?;
    if cut == Cut::BeforeSending {
        return Ok(());
    }
    sink.put(head.as_bytes());
    if cut == Cut::BeforeReceipt {
        return Ok(());
    }
    let receipt = sink.receipt();
    if cut == Cut::BeforeAcknowledging {
        return Ok(());
    }
    state.acknowledge(dir, &receipt)
}

fn cuts() -> impl Strategy<Value = Cut> {
    prop_oneof![Just(Cut::Never), Just(Cut::BeforeSending), Just(Cut::BeforeReceipt), Just(Cut::BeforeAcknowledging)]
}

fn history(dir: &Path, cuts: &[Cut]) -> Model {
    let mut sink = Model::default();
    for (number, cut) in cuts.iter().enumerate() {
        let flags = if number % 3 == 1 { FLAG_CHECKPOINT } else { 0 };
        run(dir, &mut sink, number as u64, flags, *cut).unwrap();
    }
    sink
}

fn must_alarm(state: &ChainState, sink: &Model) {
    match judge(state, sink.newest().as_ref()) {
        Verdict::Alarm(failure) => {
            assert_eq!(failure.exit, Exit::Tampered);
            assert!(failure.help.unwrap().contains("remote accept"));
        }
        other => panic!("no alarm but {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn an_honest_history_with_crashes_never_alarms(cuts in proptest::collection::vec(cuts(), 1..10)) {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = history(dir.path(), &cuts);
        run(dir.path(), &mut sink, 99, 0, Cut::Never).unwrap();
        // No run is lost, none stands twice, and both sides remember the same.
        prop_assert_eq!(sink.heads.len(), cuts.len() + 1);
        let numbers: Vec<i64> = sink.heads.iter().map(|head| head.created).collect();
        prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        let state = load(dir.path(), &chain()).unwrap();
        let remembered = state.remembered.as_ref().unwrap();
        prop_assert_eq!(remembered.head, sink.heads.last().unwrap().digest());
        prop_assert!(state.pending.is_none());
        prop_assert_eq!(state.snapshot.as_ref().unwrap().created, 99);
        let checked = verify_chain(sink.items(), &[source_key().verify_key()], &chain(), 0, None).unwrap();
        prop_assert_eq!(checked.len(), sink.heads.len());
    }

    #[test]
    fn a_sink_that_is_rolled_back_is_noticed(cuts in proptest::collection::vec(cuts(), 0..8), to in 0usize..8) {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = history(dir.path(), &cuts);
        // What was acknowledged counts, whether or not another head waits.
        run(dir.path(), &mut sink, 98, 0, Cut::Never).unwrap();
        let acknowledged = sink.heads.len();
        if to % 2 == 1 {
            run(dir.path(), &mut sink, 99, 0, Cut::BeforeSending).unwrap();
        }
        sink.roll_back(to % acknowledged);
        must_alarm(&load(dir.path(), &chain()).unwrap(), &sink);
    }

    #[test]
    fn another_head_in_the_same_place_is_noticed(cuts in proptest::collection::vec(cuts(), 0..8), waits: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = history(dir.path(), &cuts);
        run(dir.path(), &mut sink, 98, 0, Cut::Never).unwrap();
        if waits {
            run(dir.path(), &mut sink, 99, 0, Cut::BeforeSending).unwrap();
        }
        let state = load(dir.path(), &chain()).unwrap();
        let replaced = sink.heads.pop().unwrap();
        let next = Next { sequence: replaced.sequence, previous: replaced.previous };
        sink.heads.push(head_by(&source_key(), next, 500, 0, &state));
        must_alarm(&state, &sink);
    }

    #[test]
    fn a_clone_or_an_older_image_is_noticed(
        before in proptest::collection::vec(cuts(), 0..5),
        after in proptest::collection::vec(cuts(), 0..4),
        waits: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = history(dir.path(), &before);
        if waits {
            run(dir.path(), &mut sink, 50, 0, Cut::BeforeSending).unwrap();
        }
        let image = load(dir.path(), &chain()).unwrap();
        for (number, cut) in after.iter().enumerate() {
            run(dir.path(), &mut sink, 60 + number as u64, 0, *cut).unwrap();
        }
        run(dir.path(), &mut sink, 98, 0, Cut::Never).unwrap();
        run(dir.path(), &mut sink, 99, 0, Cut::Never).unwrap();
        must_alarm(&image, &sink);
    }

    #[test]
    fn lost_state_is_noticed(cuts in proptest::collection::vec(cuts(), 1..5)) {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = history(dir.path(), &cuts);
        run(dir.path(), &mut sink, 99, 0, Cut::Never).unwrap();
        must_alarm(&ChainState::empty(&chain()), &sink);
    }
}

#[test]
fn receipts_must_follow_the_remembered_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = history(dir.path(), &[Cut::Never, Cut::Never, Cut::BeforeReceipt]);
    let mut state = load(dir.path(), &chain()).unwrap();
    let good = sink.receipt();
    let wrong = |change: &dyn Fn(&mut Receipt), key: &SigningKey| {
        let mut receipt = good.clone().into_value();
        change(&mut receipt);
        sign(receipt, key).unwrap()
    };
    for receipt in [
        wrong(&|receipt| receipt.previous = None, &sink_key()),
        wrong(&|receipt| receipt.previous = Some(Digest::of(b"x")), &sink_key()),
        wrong(&|receipt| receipt.sequence += 1, &sink_key()),
        wrong(&|receipt| receipt.head = Digest::of(b"x"), &sink_key()),
        wrong(&|receipt| receipt.source = shared::id::SourceId::new([7; 32]), &sink_key()),
        wrong(&|_| {}, &source_key()),
    ] {
        assert_eq!(state.acknowledge(dir.path(), &receipt).unwrap_err().exit, Exit::Tampered);
    }
    state.acknowledge(dir.path(), &good).unwrap();
    assert_eq!(load(dir.path(), &chain()).unwrap(), state);
}

#[test]
fn a_head_that_does_not_follow_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    history(dir.path(), &[Cut::Never]);
    let mut state = load(dir.path(), &chain()).unwrap();
    let next = Next { sequence: 1, previous: Some(Digest::of(b"other")) };
    assert!(state.begin(dir.path(), &head_by(&source_key(), next, 5, 0, &state), &body(5)).is_err());
    let next = Next { sequence: 1, previous: state.remembered.as_ref().map(|last| last.head) };
    assert!(state.begin(dir.path(), &head_by(&source_key(), next, 5, 0, &state), &body(6)).is_err());
    let head = head_by(&source_key(), next, 5, 0, &state);
    state.begin(dir.path(), &head, &body(5)).unwrap();
    assert!(state.begin(dir.path(), &head, &body(5)).is_err(), "one at a time");
}

#[test]
fn damaged_state_is_a_failure_and_never_an_empty_state() {
    let dir = tempfile::tempdir().unwrap();
    history(dir.path(), &[Cut::Never]);
    let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 1, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert_eq!(load(dir.path(), &chain()).unwrap_err().exit, Exit::Tampered);
    }
    let other = Chain { source: shared::id::SourceId::new([7; 32]), ..chain() };
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(load(dir.path(), &other).unwrap_err().exit, Exit::Tampered, "another source under the same name");
}

#[test]
fn chains_with_wrong_links_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sink = history(dir.path(), &[Cut::Never; 4]);
    let key = [source_key().verify_key()];
    let check = |items: Vec<HeadItem>, from| verify_chain(items, &key, &chain(), from, None);
    assert_eq!(check(sink.items(), 0).unwrap().len(), 4);
    assert_eq!(check(sink.items()[2..].to_vec(), 2).unwrap().len(), 2);
    let code = |items: Vec<HeadItem>| check(items, 0).unwrap_err().code;
    let mut gap = sink.items();
    gap.remove(1);
    assert_eq!(code(gap), "missing-head");
    let mut garbage = sink.items();
    garbage[3].head = Blob::new(vec![0; 100]).unwrap();
    assert_eq!(code(garbage), "head");
    let foreign = verify_chain(sink.items(), &[sink_key().verify_key()], &chain(), 0, None);
    assert_eq!(foreign.unwrap_err().code, "unknown-signer");
    let other = Chain { sink: source_key().verify_key(), ..chain() };
    assert_eq!(verify_chain(sink.items(), &key, &other, 0, None).unwrap_err().code, "other-chain");
}

#[test]
fn wrong_receipts_are_faults_and_leave_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let sink = history(dir.path(), &[Cut::Never; 4]);
    let faults = |items: Vec<HeadItem>| {
        let heads = verify_chain(items, &[source_key().verify_key()], &chain(), 0, None).unwrap();
        let fault = |head: &CheckedHead| head.fault.as_ref().map(|fault| (fault.code, head.receipt.is_some()));
        heads.iter().map(fault).collect::<Vec<_>>()
    };
    assert_eq!(faults(sink.items()), [None; 4]);
    let mut swapped = sink.items();
    swapped[1].receipt = swapped[2].receipt.clone();
    assert_eq!(faults(swapped), [None, Some(("receipt", false)), None, None]);
    let mut rotten = sink.items();
    rotten[3].receipt = Some(Blob::new(vec![0; 100]).unwrap());
    assert_eq!(faults(rotten), [None, None, None, Some(("receipt", false))]);
    let mut anew = sink.items();
    let mut receipt = sink.receipts[1].clone().into_value();
    receipt.received += 1;
    anew[1].receipt = Some(Blob::new(sign(receipt, &sink_key()).unwrap().as_bytes().to_vec()).unwrap());
    assert_eq!(faults(anew), [None, None, Some(("receipt-chain", true)), None], "the one behind names another");
}

#[test]
fn readers_remember_what_they_saw() {
    let (dir, seen) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut sink = history(dir.path(), &[Cut::Never; 3]);
    let check = |sink: &Model| {
        let heads = verify_chain(sink.items(), &[source_key().verify_key()], &chain(), 0, None).unwrap();
        check_seen(seen.path(), &chain(), &heads, 0)
    };
    assert_eq!(check(&sink).unwrap(), Freshness::First);
    assert_eq!(check(&sink).unwrap(), Freshness::Same);
    run(dir.path(), &mut sink, 50, 0, Cut::Never).unwrap();
    run(dir.path(), &mut sink, 51, 0, Cut::Never).unwrap();
    assert_eq!(check(&sink).unwrap(), Freshness::Newer(2));
    let whole = sink.clone();
    for to in 0..5 {
        sink.roll_back(to);
        assert_eq!(check(&sink).unwrap_err().code, "rolled-back");
        sink = whole.clone();
    }
    // Another history of the same length, signed by the same key.
    let mut other = Model::default();
    let twin = tempfile::tempdir().unwrap();
    for number in 0..5 {
        run(twin.path(), &mut other, 100 + number, 0, Cut::Never).unwrap();
    }
    assert_eq!(check(&other).unwrap_err().code, "other-history");
    assert_eq!(check(&whole).unwrap(), Freshness::Same, "an alarm forgets nothing");
}

// --- with a sink at the other end ---------------------------------------------------------------------------------

fn serve(sink: &mut Sink, mut model: Model) {
    let hello = sink.hello();
    let mut welcome = welcome(&hello, Role::Push);
    welcome.newest = model.newest();
    sink.welcome(welcome, &sink_key());
    while let Some(request) = sink.push_request() {
        match request {
            PushRequest::Query(Query::ListHeads(query)) => {
                let items = model.items().into_iter().skip(query.from as usize).collect();
                sink.reply(&Reply::Heads(HeadList { items: List::new(items).unwrap(), more: false }));
            }
            PushRequest::PutHead(bytes) => {
                model.put(&bytes);
                sink.reply(&Reply::Receipt(model.receipt().as_bytes().to_vec()));
            }
            other => panic!("not asked for in these tests: {other:?}"),
        }
    }
}

fn client(model: &Model) -> Client {
    let model = model.clone();
    greet(sink(move |sink| serve(sink, model)).0, "offsite", &sink_key().verify_key(), PUSH).unwrap()
}

fn reconciled(dir: &Path, model: &Model) -> Verdict {
    let mut state = load(dir, &chain()).unwrap();
    reconcile(&mut client(model), dir, &mut state, &source_key().verify_key()).unwrap()
}

#[test]
fn a_pending_head_that_the_sink_has_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = history(dir.path(), &[Cut::Never, Cut::BeforeReceipt]);
    assert!(matches!(reconciled(dir.path(), &model), Verdict::ResendPending), "no receipt to be had by listing");
    model.receipt();
    let Verdict::Continue(next) = reconciled(dir.path(), &model) else { panic!("not taken over") };
    assert_eq!(next, Next { sequence: 2, previous: Some(model.heads[1].digest()) });
    assert!(load(dir.path(), &chain()).unwrap().pending.is_none());
}

#[test]
fn an_alarm_says_who_signed_the_unknown_head() {
    let dir = tempfile::tempdir().unwrap();
    let model = history(dir.path(), &[Cut::Never; 2]);
    let empty = tempfile::tempdir().unwrap();
    let Verdict::Alarm(failure) = reconciled(empty.path(), &model) else { panic!("no alarm") };
    let text = failure.to_string();
    assert!(failure.exit == Exit::Tampered && text.contains("signed with this machine's key"), "{text}");
    // A sink that invents a head has no such signature.
    let mut forged = model.clone();
    let next = Next { sequence: 2, previous: Some(model.heads[1].digest()) };
    let state = load(dir.path(), &chain()).unwrap();
    forged.heads.push(head_by(&SigningKey::from_seed(&[3; 32]), next, 9, 0, &state));
    let Verdict::Alarm(failure) = reconciled(dir.path(), &forged) else { panic!("no alarm") };
    assert!(failure.to_string().contains("not signed by a trusted key"), "{failure}");
}

fn accepted(dir: &Path, model: &Model) -> Result<String, Failure> {
    let mut state = load(dir, &chain()).unwrap();
    accept(&mut client(model), dir, &mut state, &source_key().verify_key(), "image of last week", 5)
}

#[test]
fn accepting_goes_on_from_what_the_sink_shows_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = history(dir.path(), &[Cut::Never; 2]);
    // The machine comes back without its memory; the sink was cut off before its newest receipt.
    let fresh = tempfile::tempdir().unwrap();
    run(dir.path(), &mut model, 50, 0, Cut::BeforeReceipt).unwrap();
    accepted(fresh.path(), &model).unwrap();
    model.receipt();
    run(fresh.path(), &mut model, 60, 0, Cut::Never).unwrap();
    let reason = |at: usize| model.heads[at].reason.as_ref().map(|reason| reason.to_string());
    assert_eq!((reason(2), reason(3)), (None, Some("image of last week".to_owned())));
    run(fresh.path(), &mut model, 61, 0, Cut::Never).unwrap();
    assert!(model.heads[4].reason.is_none(), "said once");
    // The other copy alarms now.
    must_alarm(&load(dir.path(), &chain()).unwrap(), &model);
    let state = load(fresh.path(), &chain()).unwrap();
    assert_eq!((state.accepted.len(), state.accepted[0].at), (1, 5));
}

#[test]
fn accepting_after_a_roll_back_keeps_what_was_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = history(dir.path(), &[Cut::Never; 4]);
    let before = load(dir.path(), &chain()).unwrap().remembered;
    model.roll_back(0);
    assert!(accepted(dir.path(), &model).unwrap().contains("new chain"));
    run(dir.path(), &mut model, 70, 0, Cut::Never).unwrap();
    assert_eq!(model.heads[0].sequence, 0);
    assert_eq!(load(dir.path(), &chain()).unwrap().accepted[0].before, before);
}

/// A receipt rotted at the sink and was made anew: each later one contradicts what this machine remembers.
#[test]
fn accepting_goes_on_after_a_receipt_that_was_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = history(dir.path(), &[Cut::Never; 3]);
    let mut anew = model.receipts[2].clone().into_value();
    anew.received += 1;
    model.receipts[2] = sign(anew, &sink_key()).unwrap();
    assert_eq!(run(dir.path(), &mut model, 60, 0, Cut::Never).unwrap_err().code, "receipt-chain");
    let mut state = load(dir.path(), &chain()).unwrap();
    let again = reconcile(&mut client(&model), dir.path(), &mut state, &source_key().verify_key());
    assert!(again.unwrap_err().help.unwrap().contains("remote accept"), "it does not go away by itself");
    accepted(dir.path(), &model).unwrap();
    run(dir.path(), &mut model, 61, 0, Cut::Never).unwrap();
    assert_eq!(model.heads[4].reason.as_deref(), Some("image of last week"));
    assert_eq!(accepted(dir.path(), &model).unwrap_err().code, "nothing-to-accept");
}

/// What came back to nobody is no contradiction.
#[test]
fn a_receipt_that_got_lost_is_nothing_to_accept() {
    let dir = tempfile::tempdir().unwrap();
    let model = history(dir.path(), &[Cut::Never, Cut::BeforeAcknowledging]);
    assert_eq!(accepted(dir.path(), &model).unwrap_err().code, "nothing-to-accept");
}

#[test]
fn nothing_is_accepted_without_an_alarm_or_from_a_forger() {
    let dir = tempfile::tempdir().unwrap();
    let model = history(dir.path(), &[Cut::Never; 2]);
    assert_eq!(accepted(dir.path(), &model).unwrap_err().code, "nothing-to-accept");
    let mut forged = model.clone();
    let next = Next { sequence: 2, previous: Some(model.heads[1].digest()) };
    let state = load(dir.path(), &chain()).unwrap();
    forged.heads.push(head_by(&SigningKey::from_seed(&[3; 32]), next, 9, 0, &state));
    assert_eq!(accepted(dir.path(), &forged).unwrap_err().code, "unknown-signer");
    assert_eq!(load(dir.path(), &chain()).unwrap(), state, "nothing changed");
}
