//! The last stage of a restore: read files again if asked, give them metadata and names, then links, deletions and the
//! directories' own metadata, deepest first.

use crate::progress::Progress;
use crate::report::{Exit, Failure, Outcome};
use crate::restore::Options;
use crate::restore::data::{local_failure, local_failure_of, lose};
use crate::restore::make::Start;
use crate::restore::metadata::Setter;
use crate::restore::open::is_chunk;
use crate::restore::plan::{FileRow, Plan, State};
use crate::restore::reader::Reader;
use crate::restore::report::Report;
use crate::restore::write::{OpenDir, Target};
use rustix::fs::{Advice, SeekFrom};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

/// Paths that were deleted, or would be, and that are listed; the rest is counted.
const DELETIONS_MAX: usize = 1000;

struct Finisher<'f, 'r> {
    reader: &'f mut Reader<'r>,
    start: &'f Start,
    plan: &'f mut Plan,
    target: &'f Target,
    set: &'f Setter,
    options: &'f Options,
    report: &'f mut Report,
    progress: &'f Progress,
}

#[allow(clippy::too_many_arguments)]
pub fn finish(
    reader: &mut Reader<'_>,
    start: &Start,
    plan: &mut Plan,
    target: &Target,
    set: &Setter,
    options: &Options,
    report: &mut Report,
    progress: &Progress,
) -> Outcome<()> {
    let mut finisher = Finisher { reader, start, plan, target, set, options, report, progress };
    finisher.files()?;
    finisher.links()?;
    if options.delete {
        delete(finisher.plan, target, start, options, finisher.report)?;
    }
    finisher.directories()
}

impl Finisher<'_, '_> {
    fn files(&mut self) -> Outcome<()> {
        if self.options.verify {
            self.plan.ready_by_file()?;
        }
        let mut from = 0;
        while let Some(row) = self.plan.unfinished(from)? {
            crate::cli::check_interrupted()?;
            let id = row.id;
            from = id + 1;
            let dir = self.target.dir(self.plan, row.dir)?;
            let done = match row.state {
                State::Done => Ok(()),
                State::Lost => self.target.discard(dir.as_fd(), id),
                State::Unchanged => {
                    let file = self.target.reopen(dir.as_fd(), &row.entry.name);
                    file.map(|file| self.set.file(file.as_fd(), &row.entry, None))
                }
                State::Pending if row.unwritten > 0 => Err(io::Error::other("not all of its content was written")),
                State::Pending => self.publish(&row, &dir)?,
            };
            if let Err(error) = done {
                let failure = local_failure_of(&error, "finish the file", self.plan, id, &self.start.base)?;
                lose(self.plan, id, &self.start.base, &self.report.lost, &failure)?;
                // What cannot be finished must not look whole; if even that fails, its temporary name says so.
                let _ = self.target.discard(dir.as_fd(), id);
            }
        }
        Ok(())
    }

    /// A file that has no content, or that is to be read again before it gets its name.
    fn publish(&mut self, row: &FileRow, dir: &OpenDir) -> Outcome<Result<(), io::Error>> {
        let (overwrite, set) = (self.options.overwrite, self.set);
        let done = if self.options.verify {
            let file = match self.target.file(dir.as_fd(), row.id, row.entry.size) {
                Ok(file) => file,
                Err(error) => return Ok(Err(error)),
            };
            match self.verify(row, &file) {
                Ok(()) => self.report.verified += 1,
                Err(Some(failure)) => return Err(failure),
                Err(None) => {
                    return Ok(Err(io::Error::other("what was read back from the target is not what was written")));
                }
            }
            self.target.publish(dir, row.id, &row.entry, overwrite, set)
        } else {
            self.target.whole(dir, row.id, &row.entry, &[], overwrite, set)
        };
        if done.is_ok() {
            self.report.files += 1;
            self.progress.files(1);
        }
        Ok(done)
    }

    /// Reads a file back from the disk: every chunk has its id, everything else is zero. `Err(None)`: it does not fit.
    fn verify(&mut self, row: &FileRow, file: &File) -> Result<(), Option<Failure>> {
        let local = |error: io::Error| local_failure(&error, "read a file back").err();
        file.sync_data().map_err(local)?;
        // Only a hint: where it is not taken, the page cache is read.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        let mut at = 0u64;
        let mut buffer = Vec::new();
        loop {
            let wants = self.plan.wants_of(row.id, at).map_err(Some)?;
            if wants.is_empty() {
                break;
            }
            for want in wants {
                zeros(file, at, want.offset).map_err(|_| None)?;
                buffer.resize(want.bytes as usize, 0);
                file.read_exact_at(&mut buffer, want.offset).map_err(|_| None)?;
                if !is_chunk(&self.reader.namer, &want.chunk, &buffer) {
                    return Err(None);
                }
                at = want.offset + u64::from(want.bytes);
            }
        }
        zeros(file, at, row.entry.size).map_err(|_| None)?;
        let bytes = file.metadata().map_err(local)?.len();
        if bytes == row.entry.size { Ok(()) } else { Err(None) }
    }

    fn links(&mut self) -> Outcome<()> {
        let mut after = 0;
        loop {
            let links = self.plan.later_links(after)?;
            let Some((last, _)) = links.last() else { return Ok(()) };
            after = *last;
            for (_, link) in links {
                let first_lost = match link.file {
                    Some(id) => self.plan.file(id)?.is_none_or(|row| row.state == State::Lost),
                    None => false,
                };
                let mut path = [&self.start.base[..], b"/", &self.plan.path(link.dir)?, b"/"].concat();
                path.extend_from_slice(&link.name);
                if first_lost {
                    let message = "the file of which this is another name is lost";
                    self.report.lost.add(path, &Failure::new("hard-link", Exit::Tampered, message));
                    continue;
                }
                let first = self.target.dir(self.plan, link.first_dir)?;
                let dir = self.target.dir(self.plan, link.dir)?;
                let from = (first.as_fd(), &link.first_name[..]);
                if let Err(error) = self.target.link(from, dir.as_fd(), &link.name, self.options.overwrite) {
                    self.report.lost.add(path, &local_failure(&error, "make the hard link")?);
                } else {
                    self.report.files += 1;
                }
            }
        }
    }

    fn directories(&mut self) -> Outcome<()> {
        for id in (0..self.plan.dirs()).rev() {
            let Some(row) = self.plan.dir(id)? else { continue };
            let Some(entry) = row.entry else { continue };
            match self.target.dir(self.plan, id) {
                Ok(dir) => self.set.file(dir.as_fd(), &entry, None),
                Err(failure) => {
                    let path = [&self.start.base[..], b"/", &self.plan.path(id)?].concat();
                    self.report.lost.add(path, &failure);
                }
            }
        }
        Ok(())
    }
}

/// Removes what the snapshot does not have, in directories whose names are all known; a dry run only counts it.
pub fn delete(plan: &mut Plan, target: &Target, start: &Start, options: &Options, report: &mut Report) -> Outcome<()> {
    for id in 0..plan.dirs() {
        crate::cli::check_interrupted()?;
        if !plan.is_closed(id)? {
            continue;
        }
        let base = [&start.base[..], b"/", &plan.path(id)?].concat();
        let base = if base.ends_with(b"/") { base } else { [&base[..], b"/"].concat() };
        let dir = target.dir(plan, id)?;
        let select = &options.select;
        let mut place = options.target.as_os_str().as_bytes().to_vec();
        for part in [&plan.path(id)?[..], b""] {
            if !place.ends_with(b"/") {
                place.push(b'/');
            }
            place.extend_from_slice(part);
        }
        let deletions = &mut report.deletions;
        let deleted = target.delete(dir.as_fd(), options.dry_run, &mut |name, directory| {
            let path = [&base[..], name].concat();
            let asked = select.is_included(&path, directory) && !select.is_excluded(&path, directory);
            let unwanted = asked && !plan.is_kept(id, name)?;
            if unwanted && deletions.len() < DELETIONS_MAX {
                deletions.push([&place[..], name].concat());
            }
            Ok(unwanted)
        });
        match deleted {
            Ok(count) => report.deleted += count,
            Err(failure) => report.lost.add(base, &failure),
        }
    }
    Ok(())
}

/// Removes what was written of files that have no name yet, after a failure that ended the restore: as good as that can
/// be done, for that failure is what counts.
pub fn discard_partial(plan: &Plan, target: &Target) {
    let mut from = 0;
    while let Ok(Some(row)) = plan.unfinished(from) {
        from = row.id + 1;
        if let Ok(dir) = target.dir(plan, row.dir) {
            let _ = target.discard(dir.as_fd(), row.id);
        }
    }
}

/// Is this range nothing but zeros? Holes are not read.
fn zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    let mut buffer = vec![0; 64 << 10];
    while at < to {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => at = data,
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
        if at >= to {
            return Ok(());
        }
        let bytes = usize::try_from(to - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..bytes], at)?;
        if buffer[..bytes].iter().any(|byte| *byte != 0) {
            return Err(io::Error::other("bytes where there should be a hole"));
        }
        at += bytes as u64;
    }
    Ok(())
}
