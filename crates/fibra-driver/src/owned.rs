//! Owned ops: the safe face of the driver, for whoever uses this crate alone. (Stub.)

use crate::notifier::Notifier;

pub(crate) struct Table;

impl Table {
    pub fn new(_notifier: Notifier) -> Self {
        Self
    }
}
