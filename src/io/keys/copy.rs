//! The copy of a Postgres store that a cold start reads while the store is down. Decides when it is written, and that a
//! copy that cannot be written holds nothing up: what is in force here matters more than what a restart would know.

use crate::config::snapshot::Store as StoreSettings;
use crate::domain::ids::KeyId;
use crate::domain::units::{Micros, WallMicros};
use crate::io::store::Store;
use crate::io::store::error::StoreError;
use crate::io::store::replica::{self, Copied, Replica};
use crate::io::store::rows::{Row, Stamp};
use std::path::{Path, PathBuf};

/// After a failure, the time until the next try: a full disk is not asked at each look.
const TRY_AGAIN: Micros = Micros(30_000_000);

/// Up to where the copy is wanted.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// What is about to be in force here.
    pub stamp: Stamp,
    /// When the store was looked at.
    pub now: WallMicros,
    /// The same on the monotonic clock.
    pub mono: Micros,
}

/// The copy, which follows the store by itself.
pub(super) struct Copy {
    path: PathBuf,
    /// `None`: it could not be opened yet.
    replica: Option<Replica>,
    /// What it holds; `None`: nothing, or it is not known.
    stamp: Option<Stamp>,
    /// It has failed, and is left alone until then.
    failed_until: Option<Micros>,
}

impl Copy {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), replica: None, stamp: None, failed_until: None }
    }

    /// Hands over what an earlier process has kept, and which keys were ever seen revoked.
    pub(super) fn load(
        &mut self,
        row: &mut dyn FnMut(Row),
        revoked: &mut dyn FnMut(KeyId),
    ) -> Result<Option<Copied>, StoreError> {
        let replica = opened(&mut self.replica, &self.path)?;
        let done = replica.load(row).and_then(|copied| replica.revoked(revoked).map(|()| copied));
        match done {
            Ok(copied) => {
                self.stamp = copied.as_ref().map(|copied| copied.stamp.clone());
                Ok(copied)
            }
            Err(error) => {
                self.give_up(&error);
                Err(error)
            }
        }
    }

    /// A file that is damaged is put aside, and the next try makes a new one.
    fn give_up(&mut self, why: &StoreError) {
        if !why.is_for_good() {
            return;
        }
        (self.replica, self.stamp) = (None, None);
        if let Err(error) = replica::put_aside(&self.path, why) {
            tracing::error!(%error, "the damaged copy of the key store cannot be put aside");
        }
    }

    /// Brings the copy up to where the store is, over a connection of its own. Says it once when it fails, and once
    /// when it works again.
    pub(super) fn follow(&mut self, store: &mut Option<Store>, settings: &StoreSettings, job: &Job) {
        if self.failed_until.is_some_and(|until| job.mono < until) {
            return;
        }
        match self.try_follow(store, settings, job) {
            Ok(()) => {
                if self.failed_until.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the copy of the key store is written again");
                }
            }
            Err(error) => {
                if self.failed_until.is_none() {
                    let path = self.path.display();
                    tracing::error!(
                        %error, %path,
                        "the copy of the key store is not written: a restart while the store is down would know less"
                    );
                }
                self.failed_until = Some(job.mono + TRY_AGAIN);
                if let Fault::Copy(error) = error {
                    self.give_up(&error);
                }
            }
        }
    }

    fn try_follow(&mut self, store: &mut Option<Store>, settings: &StoreSettings, job: &Job) -> Result<(), Fault> {
        let replica = opened(&mut self.replica, &self.path).map_err(Fault::Copy)?;
        if self.stamp.as_ref() == Some(&job.stamp) {
            return replica.touch(job.now).map_err(Fault::Copy);
        }
        let store = match store {
            Some(store) => store,
            store => store.insert(Store::open(settings).map_err(Fault::Store)?),
        };
        let mut copying = replica.begin().map_err(Fault::Copy)?;
        let stamp = store.changes(self.stamp.as_ref(), &mut |row| copying.row(&row)).map_err(Fault::Store)?;
        copying.commit(&stamp, job.now).map_err(Fault::Copy)?;
        self.stamp = Some(stamp);
        Ok(())
    }
}

/// Why nothing was copied: only a fault of the copy can be healed by a new one.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Copy(StoreError),
    #[error(transparent)]
    Store(StoreError),
}

fn opened<'r>(replica: &'r mut Option<Replica>, path: &Path) -> Result<&'r mut Replica, StoreError> {
    match replica {
        Some(replica) => Ok(replica),
        replica => Ok(replica.insert(Replica::open(path)?)),
    }
}
