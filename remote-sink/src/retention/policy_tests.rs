//! The rules, by example and over thousands of random histories.

use super::*;

const DAY: i64 = 86_400;
/// 2026-01-01 00:00 UTC, a Thursday.
const START: i64 = 1_767_225_600;

fn age(text: &str) -> Option<Age> {
    Some(text.parse().unwrap())
}

fn snapshot(sequence: u64, received: i64) -> Snapshot {
    Snapshot {
        id: SnapshotId { lineage: Lineage::new([1; 16]), sequence },
        series: Series::new([1; 16]),
        received,
        checkpoint: false,
        run_committed: false,
        held: false,
        vouched: false,
        promised: None,
    }
}

/// Says of each checkpoint whether its run committed, as heads tell it.
fn settle(history: &mut [Snapshot]) {
    for at in 0..history.len() {
        let (before, after) = history.split_at_mut(at + 1);
        let one = &mut before[at];
        one.run_committed = after.iter().any(|other| !other.checkpoint && other.series == one.series);
    }
}

fn kept(rules: &Rules, snapshots: &[Snapshot], now: i64) -> Vec<u64> {
    decide(rules, snapshots, now).iter().filter(|d| d.is_kept()).map(|d| d.id.sequence).collect()
}

/// Small and repeatable; quality does not matter here.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end.max(1)
    }
    fn rules(&mut self) -> Rules {
        let ages = ["1h", "36h", "7d", "30d", "2mo", "1y"];
        let one = |chance: &mut Self| (chance.below(2) == 0).then(|| ages[chance.below(6) as usize].parse().unwrap());
        let (keep_within, min_age) = (one(self), one(self));
        let mut count = |most| if self.below(2) == 0 { 0 } else { self.below(most) as u32 };
        Rules {
            keep_within,
            last: count(5),
            hourly: count(30),
            daily: count(20),
            weekly: count(10),
            monthly: count(14),
            yearly: count(4),
            min_age,
        }
    }
    fn history(&mut self, most: u64) -> Vec<Snapshot> {
        let (mut at, mut all) = (START, Vec::new());
        let steps = [60, 3600, 3 * 3600, DAY, 9 * DAY, 40 * DAY];
        for sequence in 0..self.below(most) {
            let step = steps[self.below(6) as usize] as u64;
            at += self.below(step) as i64;
            let mut one = snapshot(sequence, at);
            one.series = Series::new([self.below(2) as u8; 16]);
            one.checkpoint = self.below(6) == 0;
            one.held = self.below(40) == 0;
            one.vouched = self.below(20) == 0;
            one.promised = (self.below(10) == 0).then(|| at + self.below(40 * DAY as u64) as i64);
            all.push(one);
        }
        settle(&mut all);
        all
    }
}

/// Histories, rules and moments; `check` sees thousands of each.
fn each_history(seed: u64, check: impl Fn(&Rules, &[Snapshot], i64, &mut Chance)) {
    let mut chance = Chance(seed);
    for _ in 0..3000 {
        let (rules, history) = (chance.rules(), chance.history(40));
        let last = history.last().map_or(START, |one| one.received);
        let now = last + chance.below(100 * DAY as u64) as i64;
        check(&rules, &history, now, &mut chance);
    }
}

#[test]
fn nothing_goes_until_a_rule_that_keeps_is_set() {
    let history: Vec<_> = (0..50).map(|at| snapshot(at, START + at as i64 * DAY)).collect();
    for rules in [Rules::default(), Rules { min_age: age("1d"), ..Rules::default() }] {
        assert_eq!(kept(&rules, &history, START + 10_000 * DAY).len(), 50);
    }
}

#[test]
fn the_oldest_of_each_slot_stays() {
    // Three a day for thirty days.
    let history: Vec<_> = (0..90).map(|at| snapshot(at, START + at as i64 * DAY / 3)).collect();
    let now = START + 30 * DAY;
    assert_eq!(kept(&Rules { daily: 3, ..Rules::default() }, &history, now), [81, 84, 87, 89]);
    // Weeks begin on Monday: the 5th, 12th, 19th and 26th of January.
    assert_eq!(kept(&Rules { weekly: 2, ..Rules::default() }, &history, now), [18 * 3, 25 * 3, 89]);
    assert_eq!(kept(&Rules { monthly: 5, ..Rules::default() }, &history, now), [0, 89]);
    assert_eq!(kept(&Rules { last: 2, ..Rules::default() }, &history, now), [88, 89]);
    assert_eq!(kept(&Rules { keep_within: age("1d"), ..Rules::default() }, &history, now), [88, 89]);
}

#[test]
fn slots_are_of_utc() {
    let history = [snapshot(0, START - 1), snapshot(1, START), snapshot(2, START + 1), snapshot(3, START + 7200)];
    for (reason, rules) in [
        (Reason::Yearly, Rules { yearly: 1, ..Rules::default() }),
        (Reason::Monthly, Rules { monthly: 1, ..Rules::default() }),
        (Reason::Daily, Rules { daily: 1, ..Rules::default() }),
    ] {
        let decisions = decide(&rules, &history, START + 9000);
        let holders: Vec<_> = decisions.iter().filter(|d| d.kept.contains(&reason)).map(|d| d.id.sequence).collect();
        assert_eq!(holders, [1], "{reason:?}");
    }
}

#[test]
fn a_month_is_never_shorter_than_the_calendar_says() {
    let received = "2026-01-31T12:00:00Z".parse::<Timestamp>().unwrap();
    let end = end_of("1mo".parse().unwrap(), received.as_second());
    assert!(end >= "2026-02-28T12:00:00Z".parse::<Timestamp>().unwrap().as_second());
    assert!("1mo".parse::<Age>().unwrap().seconds_min() as i64 <= end - received.as_second());
    for text in ["1mo", "5mo", "13mo", "1y", "2y3mo4d", "36h"] {
        let age: Age = text.parse().unwrap();
        for day in 0..800 {
            let from = START + day * DAY;
            assert!(end_of(age, from) >= from + age.seconds_min() as i64, "{text} from day {day}");
        }
    }
}

#[test]
fn a_checkpoint_holds_no_slot_and_goes_when_its_run_committed() {
    let rules = Rules { daily: 5, keep_within: age("30d"), ..Rules::default() };
    let mut history = vec![snapshot(0, START), snapshot(1, START + DAY), snapshot(2, START + DAY + 60)];
    history[1].checkpoint = true;
    assert_eq!(kept(&rules, &history[..2], START + 90 * DAY), [0, 1], "its run goes on");
    settle(&mut history);
    assert_eq!(kept(&rules, &history, START + DAY + 120), [0, 2], "the run committed; no slot, no keep-within");
    let young = Rules { min_age: age("3d"), ..rules };
    assert_eq!(kept(&young, &history, START + 2 * DAY), [0, 1, 2]);
}

#[test]
fn held_vouched_and_newest_stay_whatever_the_rules() {
    each_history(11, |rules, history, now, _| {
        let decisions = decide(rules, history, now + 100_000 * DAY);
        for series in [0, 1].map(|byte| Series::new([byte; 16])) {
            let of = |keep: fn(&Snapshot) -> bool| history.iter().rfind(|one| one.series == series && keep(one));
            for must in [of(|one| one.vouched), of(|one| !one.checkpoint)].into_iter().flatten() {
                assert!(decisions.iter().any(|d| d.id == must.id && d.is_kept()), "{must:?}");
            }
        }
        for held in history.iter().filter(|one| one.held) {
            assert!(decisions.iter().any(|d| d.id == held.id && d.is_kept()));
        }
    });
}

#[test]
fn nothing_below_min_age_keep_within_or_a_promise_goes() {
    each_history(12, |rules, history, now, chance| {
        // Whatever comes later, in whatever series.
        let mut more = history.to_vec();
        let mut at = now;
        for sequence in 0..chance.below(60) {
            at += chance.below(3000) as i64;
            let mut one = snapshot(1000 + sequence, at);
            one.series = Series::new([chance.below(4) as u8; 16]);
            one.checkpoint = chance.below(3) == 0;
            more.push(one);
        }
        settle(&mut more);
        for (snapshot, decision) in more.iter().zip(decide(rules, &more, at)) {
            let promise =
                if snapshot.checkpoint { rules.checkpoint_promise_seconds() } else { rules.promise_seconds() };
            let young = at < snapshot.received + promise as i64;
            let promised = snapshot.promised.is_some_and(|until| at < until);
            assert!(decision.is_kept() || !(young || promised), "{rules:?} {snapshot:?}");
        }
    });
}

#[test]
fn what_comes_later_takes_no_slot_from_what_was_there() {
    each_history(13, |rules, history, now, chance| {
        // Junk within the slots of the last snapshot: the same hour, so the same day, week, month and year.
        let Some(last) = history.iter().rfind(|one| !one.checkpoint) else { return };
        let (hour, rules) = (last.received.div_euclid(3600), Rules { last: 0, ..rules.clone() });
        let mut more = history.to_vec();
        for sequence in 0..chance.below(50) {
            let at = (last.received + chance.below(3600) as i64).min(hour * 3600 + 3599);
            more.push(Snapshot { series: last.series, ..snapshot(5000 + sequence, at) });
        }
        let (before, after) = (decide(&rules, history, now), decide(&rules, &more, now));
        for (before, after) in before.iter().zip(&after) {
            let slots = |d: &Decision| {
                let fixed = |reason: &Reason| !matches!(reason, Reason::Newest | Reason::Unfinished);
                d.kept.iter().copied().filter(fixed).collect::<Vec<_>>()
            };
            assert_eq!(slots(before), slots(after), "{:?}", before.id);
        }
    });
}

#[test]
fn a_second_look_removes_nothing_more() {
    each_history(14, |rules, history, now, _| {
        let first = kept(rules, history, now);
        let left: Vec<_> = history.iter().filter(|one| first.contains(&one.id.sequence)).cloned().collect();
        assert_eq!(kept(rules, &left, now), first);
    });
}

#[test]
fn the_next_date_is_when_something_goes_and_not_before() {
    each_history(15, |rules, history, now, _| {
        let left: Vec<_> = {
            let first = kept(rules, history, now);
            history.iter().filter(|one| first.contains(&one.id.sequence)).cloned().collect()
        };
        let decisions = decide(rules, &left, now);
        match next_removal(&decisions) {
            Some(next) => {
                assert_eq!(kept(rules, &left, next - 1).len(), left.len());
                assert!(kept(rules, &left, next).len() < left.len());
            }
            None => assert_eq!(kept(rules, &left, now + 100_000 * DAY).len(), left.len()),
        }
    });
}

#[test]
fn the_order_in_which_snapshots_are_given_does_not_matter() {
    each_history(16, |rules, history, now, chance| {
        let mut shuffled = history.to_vec();
        for at in (1..shuffled.len()).rev() {
            shuffled.swap(at, chance.below(at as u64 + 1) as usize);
        }
        let mut there = kept(rules, &shuffled, now);
        there.sort_unstable();
        assert_eq!(kept(rules, history, now), there);
    });
}
