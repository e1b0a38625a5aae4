//! The course of a run: the remotes are connected to, and the sets are read one after another.
//!
//! Where it can be foreseen what the remotes will say, the sets begin meanwhile: a login over a long line takes longer
//! than looking at a thousand files. Nothing leaves the machine, and nothing is noted as done, before every remote has
//! answered as foreseen; if one does not, everything that was read until then is dropped, and the sets begin again.

use super::assemble::Sealer;
use super::budget::Budget;
use super::chunk::Cutter;
use super::connect::{Connected, Me, connect};
use super::flights::{Everywhere, Flights};
use super::heal::{self, Patient};
use super::numbers::Numbers;
use super::push::{Ended, Pusher, Remote, Session, Work};
use super::set::Run;
use super::stop::{self, Stop};
use super::users::Users;
use super::{Env, Input, RemotePlan, RemoteReport, Report, SetPlan, SetReport};
use crate::client::Client;
use crate::config::Compression;
use crate::crypto::wrap::new_session;
use crate::index::{self, SinkFacts};
use crate::report::{Exit, Failure, Outcome};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;
use shared::id::Digest;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often who waits at the gate looks whether the run was stopped.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Opens when the remotes have answered, one way or the other.
pub struct Gate {
    word: Receiver<Answered>,
    open: AtomicBool,
}

/// The word that opens the gate: who breaks off without it does not open it.
struct Answered;

impl Gate {
    fn new(open: bool) -> (Sender<Answered>, Self) {
        let (opener, word) = bounded(1);
        (opener, Self { word, open: AtomicBool::new(open) })
    }

    /// Waits until the remotes have answered; fails if the run was stopped by then.
    pub fn pass(&self, stop: &Stop) -> Outcome<()> {
        while !self.open.load(Ordering::Acquire) {
            match self.word.recv_timeout(LOOK_EVERY) {
                Ok(Answered) => self.open.store(true, Ordering::Release),
                Err(RecvTimeoutError::Timeout) => stop.check()?,
                Err(RecvTimeoutError::Disconnected) => return Err(broke_off()),
            }
        }
        stop.check()
    }
}

/// The remotes that could be connected to, by their place, and a report on each.
struct Answers {
    connected: Vec<(usize, Connected)>,
    reports: Vec<RemoteReport>,
}

impl Answers {
    /// Archives that every connected remote holds.
    fn everywhere(&self) -> HashSet<u64> {
        intersection(self.connected.iter().map(|(_, remote)| &remote.present))
    }

    /// Has every remote answered what was foreseen?
    fn are_as(&self, foreseen: &Foreseen) -> bool {
        let as_foreseen = |remote: &Connected| {
            remote.damage.is_none() && !remote.learned && remote.next_number <= foreseen.next_number
        };
        self.connected.len() == self.reports.len()
            && self.connected.iter().all(|(_, remote)| as_foreseen(remote))
            && self.everywhere() == foreseen.everywhere
    }

    /// Why no remote could be connected to: of the required ones the first.
    fn failure(&self) -> Option<Failure> {
        let required = self.reports.iter().filter(|remote| remote.required);
        required.chain(&self.reports).find_map(|remote| remote.failure.as_ref()).map(stop::again)
    }
}

/// What the remotes will say if nothing happened that this machine does not know of.
struct Foreseen {
    everywhere: HashSet<u64>,
    next_number: u64,
}

impl Foreseen {
    /// `None` where reading has to wait: for input that is there only once, where people hear of what is met on the
    /// way, and where a series has to be put aside first.
    fn new(env: &Env, sets: &[SetPlan], next_number: u64) -> Outcome<Option<Self>> {
        let paths = matches!(sets.first(), Some(SetPlan { input: Input::Paths(_), .. }));
        if !paths || env.on_exclude.is_some() || index::series::any_refers_from(&env.cache_dir, next_number)? {
            return Ok(None);
        }
        let present = env.remotes.iter().map(|remote| env.index.present(&env.index.sink(&remote.key)?));
        let everywhere = intersection(&present.collect::<Outcome<Vec<_>>>()?);
        Ok(Some(Self { everywhere, next_number }))
    }
}

fn intersection<'a>(sets: impl IntoIterator<Item = &'a HashSet<u64>>) -> HashSet<u64> {
    let mut sets = sets.into_iter();
    let mut all = sets.next().cloned().unwrap_or_default();
    sets.for_each(|other| all.retain(|archive| other.contains(archive)));
    all
}

/// Reads and pushes the sets.
pub fn run(env: &Env, sets: &[SetPlan]) -> Outcome<Report> {
    let numbers = Numbers::open(&env.state_dir, env.index.next_number()?)?;
    let known = numbers.next();
    let numbers = Arc::new(Mutex::new(numbers));
    let answers = match Foreseen::new(env, sets, known)? {
        Some(foreseen) => match ahead(env, sets, &foreseen, &numbers)? {
            Ahead::Right(report) => return Ok(report),
            Ahead::Wrong(answers) => answers,
        },
        None => connect_all(env, known),
    };
    let mut taken = numbers.lock();
    // Of those that were taken ahead, none has left this machine.
    taken.set_back(known);
    if answers.connected.is_empty() {
        // A bound that stays too high costs a few numbers.
        let _ = taken.close();
        return Ok(Report { sets: Vec::new(), failure: answers.failure(), remotes: answers.reports });
    }
    let floor = answers.connected.iter().map(|(_, remote)| remote.next_number).max().unwrap_or(0);
    taken.raise(floor.max(env.index.next_number()?));
    index::series::put_aside_from(&env.cache_dir, taken.next())?;
    drop(taken);
    let remotes = answers.connected.iter().map(|(at, _)| *at).collect();
    let (mut run, waiting) = begin(env, remotes, answers.everywhere(), &numbers, None)?;
    let mut pushing = waiting.start(env, answers);
    let conducted = conduct(&mut run, &mut pushing.patients, sets);
    end(run, conducted, pushing)
}

/// What came of beginning before the remotes had answered.
enum Ahead {
    Right(Report),
    /// One has answered otherwise; nothing was pushed.
    Wrong(Answers),
}

/// Conducts the sets while the remotes are connected to.
fn ahead(env: &Env, sets: &[SetPlan], foreseen: &Foreseen, numbers: &Arc<Mutex<Numbers>>) -> Outcome<Ahead> {
    let (opener, gate) = Gate::new(false);
    let remotes = (0..env.remotes.len()).collect();
    let (mut run, waiting) = begin(env, remotes, foreseen.everywhere.clone(), numbers, Some(gate))?;
    let stop = Arc::clone(&run.stop);
    let (conducted, answered) = std::thread::scope(|scope| {
        let connecting = scope.spawn(move || {
            let answers = connect_all(env, foreseen.next_number);
            let answered = if answers.are_as(foreseen) {
                stop.listen();
                Ok(waiting.start(env, answers))
            } else {
                stop.fail(Failure::new("foreseen", Exit::Failed, "a remote did not answer as the local index says"));
                Err(answers)
            };
            // One place, one word.
            drop(opener.send(Answered));
            answered
        });
        let conducted = conduct(&mut run, &mut [], sets);
        (conducted, connecting.join())
    });
    match answered {
        Ok(Ok(pushing)) => end(run, conducted, pushing).map(Ahead::Right),
        Ok(Err(answers)) => Ok(Ahead::Wrong(answers)),
        Err(_) => Err(broke_off()),
    }
}

fn broke_off() -> Failure {
    Failure::new("connect", Exit::Failed, "the connecting thread broke off")
}

/// What the remotes of a run will be told, while they are not pushed to yet.
struct Waiting {
    session: Arc<Session>,
    work: Vec<(usize, Receiver<Work>)>,
}

/// A remote that is pushed to.
struct Pushed {
    at: usize,
    facts: SinkFacts,
    journal: Option<Digest>,
    thread: JoinHandle<Ended>,
}

/// All remotes of a run.
struct Pushing {
    pushed: Vec<Pushed>,
    patients: Vec<Patient>,
    reports: Vec<RemoteReport>,
}

/// Everything that the sets need of a run with these remotes; `ahead` is the gate of one whose remotes have not answered.
fn begin<'a>(
    env: &'a Env,
    remotes: Vec<usize>,
    everywhere: HashSet<u64>,
    numbers: &Arc<Mutex<Numbers>>,
    ahead: Option<Gate>,
) -> Outcome<(Run<'a>, Waiting)> {
    let (secret, envelope) = new_session(env.source, env.lineage, &env.secret, &env.recipients, &env.signing)
        .map_err(|e| Failure::new("session", Exit::Failed, format!("cannot open a session: {e}")))?;
    let envelope = Arc::new(envelope);
    let budget = Budget::new(env.budget_bytes);
    let stop = if ahead.is_some() { Stop::deaf(Arc::clone(&budget)) } else { Stop::new(Arc::clone(&budget)) };
    let stop = Arc::new(stop);
    let sealer = Sealer {
        source: env.source,
        lineage: env.lineage,
        secret: Arc::new(secret),
        index_secret: env.secret.index_secret(&env.lineage),
        envelope: Arc::clone(&envelope),
        signing: Arc::clone(&env.signing),
        flights: Arc::new(Flights::default()),
        everywhere: Arc::new(Everywhere::new(everywhere)),
    };
    let session = Session {
        first: numbers.lock().next(),
        index: Arc::clone(&env.index),
        envelope,
        signing: Arc::clone(&env.signing),
        state_dir: env.state_dir.clone(),
        stop: Arc::clone(&stop),
        retry: env.retry.clone(),
        alive: AtomicUsize::new(remotes.len()),
    };
    let (work, told) = remotes
        .into_iter()
        .map(|at| {
            let (work, told) = unbounded();
            ((at, work), (at, told))
        })
        .unzip();
    let run = Run {
        env,
        sealer: Arc::new(sealer),
        numbers: Arc::clone(numbers),
        stop,
        gate: ahead.unwrap_or_else(|| Gate::new(true).1),
        budget,
        cutter: Cutter::new(env.secret.gear(&env.lineage)),
        users: Users::read(),
        work,
        lost: HashSet::new(),
    };
    Ok((run, Waiting { session: Arc::new(session), work: told }))
}

impl Waiting {
    /// Starts a pushing thread for each of the remotes, all of which are connected.
    fn start(self, env: &Env, answers: Answers) -> Pushing {
        let (mut pushed, mut patients) = (Vec::new(), Vec::new());
        for ((at, mut connected), (_, work)) in answers.connected.into_iter().zip(self.work) {
            let (facts, journal) = (connected.facts, connected.client.welcome().journal);
            patients.extend(connected.damage.take().map(|damage| Patient::new(at, facts, damage, &env.clock)));
            let (client, remote) = remote(env, at, connected);
            let session = Arc::clone(&self.session);
            let thread = std::thread::spawn(move || Pusher::start(session, remote).run(client, &work));
            pushed.push(Pushed { at, facts, journal, thread });
        }
        Pushing { pushed, patients, reports: answers.reports }
    }
}

fn remote(env: &Env, at: usize, connected: Connected) -> (Client, Remote) {
    let plan = &env.remotes[at];
    let others = env.heads.iter().filter(|head| head.sink != plan.key).cloned().collect();
    let remote = Remote {
        at,
        dial: Arc::clone(&plan.dial),
        state: connected.state,
        facts: connected.facts,
        others,
        limits: plan.limits.clone(),
        progress: plan.progress.clone(),
    };
    (connected.client, remote)
}

/// Sets that are done, and what ended the run before the others.
type Conducted = (Vec<SetReport>, Option<Failure>);

fn conduct(run: &mut Run, patients: &mut [Patient], sets: &[SetPlan]) -> Conducted {
    let mut done = Vec::new();
    let mut failure = before(run, patients, sets).err();
    for set in sets {
        if failure.is_some() {
            break;
        }
        match run.set(set) {
            Ok(report) => done.push(report),
            Err(why) => failure = Some(why),
        }
    }
    if failure.is_none() {
        failure = heal::after(run, patients).err();
    }
    // Without senders the pushing threads end.
    run.work.clear();
    (done, failure)
}

/// Heals what the remotes' sinks say is damaged; what cannot be healed is not referred to any more.
fn before(run: &mut Run, patients: &mut [Patient], sets: &[SetPlan]) -> Outcome<()> {
    let compression = sets.first().map_or(Compression::Auto, |set| set.options.compression);
    heal::before(run, patients, compression)?;
    run.lost = patients.iter().flat_map(Patient::lost).collect();
    Ok(())
}

/// Waits for the remotes and notes what they acknowledged.
fn end(run: Run, (sets, failure): Conducted, pushing: Pushing) -> Outcome<Report> {
    let env = run.env;
    let Pushing { pushed, patients, reports: mut remotes } = pushing;
    let next = run.numbers.lock().next();
    for Pushed { at, facts, journal, thread } in pushed {
        let Ok(Ended { failure, bytes_sent, archives_sent, settled }) = thread.join() else {
            remotes[at].failure = Some(Failure::new("push", Exit::Failed, "the pushing thread broke off"));
            continue;
        };
        // Archives that the remote may hold without having said so are listed in the next session.
        if settled {
            env.index.advance(&facts, next, journal)?;
        }
        let healing = patients.iter().find(|patient| patient.at == at).map(Patient::healing);
        remotes[at] =
            RemoteReport { failure, bytes_sent, archives_sent, healing, ..RemoteReport::new(&env.remotes[at]) };
    }
    run.numbers.lock().close()?;
    Ok(Report { sets, remotes, failure })
}

/// Connects to all remotes at once; those that fail are out of this run. `known` is above all archive numbers that this
/// machine knows of.
fn connect_all(env: &Env, known: u64) -> Answers {
    let index_secret = &env.secret.index_secret(&env.lineage);
    let (now, alone) = (env.clock.now(), env.remotes.len() == 1);
    let key = env.signing.verify_key();
    let me = &Me { source: env.source, lineage: env.lineage, key, index_secret, known, now, alone };
    let connect_one = |plan: &RemotePlan| connect(&*plan.dial, me, &env.index, &env.state_dir, env.force, &*env.told);
    let connect_one = &connect_one;
    let results: Vec<Outcome<Connected>> = std::thread::scope(|scope| {
        let threads: Vec<_> = env.remotes.iter().map(|plan| scope.spawn(move || connect_one(plan))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(broke_off()))).collect()
    });
    let mut answers = Answers { connected: Vec::new(), reports: env.remotes.iter().map(RemoteReport::new).collect() };
    for (at, result) in results.into_iter().enumerate() {
        match result {
            Ok(remote) => {
                remote.warnings.iter().for_each(|line| (env.warned)(line));
                answers.connected.push((at, remote));
            }
            Err(failure) => answers.reports[at].failure = Some(failure.remote(env.remotes[at].dial.name())),
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_opens_for_good_by_the_word_alone() {
        let stop = Stop::deaf(Budget::new(0));
        let (opener, gate) = Gate::new(false);
        drop(opener);
        assert_eq!(gate.pass(&stop).unwrap_err().code, "connect", "who broke off has not opened it");
        let (opener, gate) = Gate::new(false);
        opener.send(Answered).unwrap();
        drop(opener);
        gate.pass(&stop).unwrap();
        gate.pass(&stop).unwrap();
        stop.fail(Failure::new("foreseen", Exit::Failed, "x"));
        assert_eq!(gate.pass(&stop).unwrap_err().code, "foreseen");
    }
}
