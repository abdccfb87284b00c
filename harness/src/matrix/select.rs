//! Which runs of the family are worth making, from what is known so far.

use std::collections::{BTreeMap, BTreeSet};

use super::ingredient::{Dropped, Ingredient};
use super::outcome::{Fact, Outcome};
use super::verdict::differences;

/// What was measured on one machine, by what was left out.
pub type Outcomes = BTreeMap<Dropped, Outcome>;

/// What to leave out on one machine, those that are measured already among it. It grows with what is known;
/// when all of it is measured the matrix of that machine is complete.
///
/// First the write-up itself, and each ingredient alone. Then, for what may interact:
///
/// - All ingredients together whose single absence changed nothing. If that changes nothing either, no two
///   of them matter together: one run stands for all their pairs. (A pair whose effect a third one undoes
///   would escape it.)
/// - If it does change something, and the write-up itself works: the same with each of them put back in
///   turn. Those that put it right are in every group that makes the change, and their pairs are tried;
///   where there are not two of them several groups do, and all pairs are tried. That is some ten runs in
///   place of forty.
/// - The pairs of those whose single absence changes the same fact, and leaves the NAS its disks.
pub fn wanted(outcomes: &Outcomes) -> Vec<Dropped> {
    let mut wanted: Vec<Dropped> = vec![Dropped::new()];
    wanted.extend(Ingredient::all().map(|one| Dropped::from([one])));
    let Some(base) = outcomes.get(&Dropped::new()) else {
        return wanted;
    };
    let mut changes: BTreeMap<Ingredient, BTreeSet<Fact>> = BTreeMap::new();
    let mut breaks = BTreeSet::new();
    for one in Ingredient::all() {
        let Some(outcome) = outcomes.get(&Dropped::from([one])) else {
            return wanted;
        };
        let facts = differences(base, outcome).into_iter().map(|one| one.fact);
        changes.insert(one, facts.collect());
        if !outcome.works() {
            breaks.insert(one);
        }
    }
    let idle = changes.iter().filter(|(_, facts)| facts.is_empty());
    let idle: Dropped = idle.map(|(one, _)| *one).collect();
    let mut more = Vec::new();
    if idle.len() > 1 {
        more.push(idle.clone());
    }
    if base.works() {
        more.extend(groups(&idle, base, outcomes));
        let share = |[one, other]: &[Ingredient; 2]| {
            let sound = !breaks.contains(one) && !breaks.contains(other);
            sound && !changes[one].is_disjoint(&changes[other])
        };
        let all: Dropped = changes.keys().copied().collect();
        more.extend(pairs(&all).filter(share).map(Dropped::from));
    }
    for one in more {
        if !wanted.contains(&one) {
            wanted.push(one);
        }
    }
    wanted
}

/// What finds out who interacts, where those that do nothing alone do something together.
fn groups(idle: &Dropped, base: &Outcome, outcomes: &Outcomes) -> Vec<Dropped> {
    let same = |dropped: &Dropped| {
        let outcome = outcomes.get(dropped)?;
        Some(differences(base, outcome).is_empty())
    };
    if idle.len() < 3 || same(idle) != Some(false) {
        return Vec::new();
    }
    let without = |one: &Ingredient| {
        let mut rest = idle.clone();
        rest.remove(one);
        rest
    };
    let mut wanted: Vec<Dropped> = idle.iter().map(without).collect();
    let put_right: Option<Vec<bool>> = wanted.iter().map(same).collect();
    if let Some(put_right) = put_right {
        let decisive = idle.iter().zip(put_right).filter(|(_, right)| *right);
        let decisive: Dropped = decisive.map(|(one, _)| *one).collect();
        let among = if decisive.len() > 1 { &decisive } else { idle };
        wanted.extend(pairs(among).map(Dropped::from));
    }
    wanted
}

fn pairs(of: &Dropped) -> impl Iterator<Item = [Ingredient; 2]> {
    let list: Vec<Ingredient> = of.iter().copied().collect();
    let after = list.clone();
    list.into_iter().enumerate().flat_map(move |(index, one)| {
        let others = after[index + 1..].to_vec();
        others.into_iter().map(move |other| [one, other])
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ahci_first, changed, dropped, fails, works};
    use super::*;
    use Ingredient::{
        BlacklistAhci, BlacklistLibahci, FirstReboot, Hostpci, IommuPt, Pcie, SecondReboot,
        UpdateInitramfs, Vfio, VfioVirqfd,
    };

    /// Every single absence changes nothing but these, and those that break it.
    fn singles(base: &Outcome, others: &[(Ingredient, Outcome)]) -> Outcomes {
        let mut outcomes = Outcomes::from([(Dropped::new(), base.clone())]);
        for one in Ingredient::all() {
            outcomes.insert(dropped(&[one]), base.clone());
        }
        for (one, outcome) in others {
            outcomes.insert(dropped(&[*one]), outcome.clone());
        }
        outcomes
    }

    fn beyond_singles(outcomes: &Outcomes) -> Vec<Dropped> {
        let all = wanted(outcomes);
        all.into_iter().filter(|one| one.len() > 1).collect()
    }

    /// A base that works, four ingredients that matter, and ten that do nothing.
    fn usual() -> Outcomes {
        let first = ahci_first();
        singles(
            &works(),
            &[
                (BlacklistAhci, first.clone()),
                (UpdateInitramfs, first.clone()),
                (SecondReboot, first),
                (Hostpci, fails("no disks")),
            ],
        )
    }

    #[test]
    fn first_come_the_write_up_and_each_ingredient() {
        let all = wanted(&Outcomes::new());
        assert_eq!(all.len(), 15);
        assert_eq!(all[0], Dropped::new());
        let mut some = usual();
        some.remove(&dropped(&[Vfio]));
        assert_eq!(wanted(&some), all);
    }

    #[test]
    fn then_all_that_did_nothing_at_once_and_the_pairs_that_change_the_same() {
        let more = beyond_singles(&usual());
        assert_eq!(more.len(), 4);
        assert_eq!(more[0].len(), 10);
        assert!(!more[0].contains(&Hostpci) && !more[0].contains(&BlacklistAhci));
        assert_eq!(
            more[1..],
            [
                dropped(&[BlacklistAhci, UpdateInitramfs]),
                dropped(&[BlacklistAhci, SecondReboot]),
                dropped(&[UpdateInitramfs, SecondReboot]),
            ]
        );
        // What changes something else is no pair of theirs.
        let mut outcomes = usual();
        let silent = changed(|before| before.modules_failed.clear());
        outcomes.insert(dropped(&[VfioVirqfd]), silent);
        let more = beyond_singles(&outcomes);
        assert_eq!(more.len(), 4);
        assert_eq!(more[0].len(), 9);
    }

    #[test]
    fn one_run_that_changes_nothing_stands_for_all_pairs() {
        let mut outcomes = usual();
        let idle = beyond_singles(&outcomes)[0].clone();
        outcomes.insert(idle, works());
        assert_eq!(beyond_singles(&outcomes).len(), 4);
    }

    /// Which of ten that do nothing alone break it together is found in eleven runs.
    #[test]
    fn who_interacts_is_found_by_putting_each_back() {
        let culprits = dropped(&[FirstReboot, Pcie]);
        let mut outcomes = usual();
        let mut runs = 0;
        loop {
            let all = wanted(&outcomes);
            let new: Vec<Dropped> = all
                .into_iter()
                .filter(|one| one.len() > 1 && !outcomes.contains_key(one))
                .collect();
            if new.is_empty() {
                break;
            }
            runs += new.len();
            for one in new {
                let outcome = match one.is_superset(&culprits) {
                    true => fails("both"),
                    false => works(),
                };
                outcomes.insert(one, outcome);
            }
        }
        assert!(!outcomes[&culprits].works());
        // One with all ten, ten with one put back, the pair, and the three pairs of the usual.
        assert_eq!(runs, 15);
    }

    #[test]
    fn where_nobody_puts_it_right_all_pairs_are_tried() {
        let mut outcomes = usual();
        let idle = beyond_singles(&outcomes)[0].clone();
        outcomes.insert(idle.clone(), fails("two groups"));
        for one in beyond_singles(&outcomes) {
            if one.is_subset(&idle) {
                outcomes.insert(one, fails("two groups"));
            }
        }
        let more = beyond_singles(&outcomes);
        assert!(more.contains(&dropped(&[IommuPt, BlacklistLibahci])));
        let within = more
            .iter()
            .filter(|one| one.len() == 2 && one.is_subset(&idle));
        assert_eq!(within.count(), 45);
    }

    #[test]
    fn where_the_write_up_itself_fails_only_all_at_once_is_tried() {
        let base = fails("IOMMU not present");
        let mut other = base.clone();
        other.before = ahci_first().before;
        let others = [
            (BlacklistAhci, other.clone()),
            (SecondReboot, other),
            (Hostpci, fails("no disks")),
        ];
        let mut outcomes = singles(&base, &others);
        let more = beyond_singles(&outcomes);
        assert_eq!(more.len(), 1);
        assert_eq!(more[0].len(), 11);
        outcomes.insert(more[0].clone(), fails("otherwise"));
        assert_eq!(beyond_singles(&outcomes), more);
    }
}
