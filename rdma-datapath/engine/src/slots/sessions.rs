//! Sessions: which connection speaks for which device, and the fence between two epochs.

use dynamicswap_types::{Epoch, SessionId, SwapDeviceId};
use thiserror::Error;

use super::CoreLimits;
use crate::operation::OperationError;

/// Place of a connection in the server's connection table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionIndex(u16);

impl ConnectionIndex {
    /// Wraps the number.
    #[must_use]
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The index as a table position.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// What a borrower says of itself when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Its device.
    pub device: SwapDeviceId,
    /// Its epoch: higher than that of every engine process before it.
    pub epoch: Epoch,
    /// Drawn once by each engine process.
    pub session: SessionId,
    /// Which of its queues this connection serves.
    pub queue: u16,
}

/// The highest epoch of a device, as the memory file keeps it at `place`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceEpoch {
    /// Position in the kept table.
    pub place: u16,
    /// The device.
    pub device: SwapDeviceId,
    /// Its highest epoch.
    pub epoch: Epoch,
}

/// What the shell does before it answers a handshake, in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEffect {
    /// Close the connection without applying what it still holds.
    Close(ConnectionIndex),
    /// Keep the device's epoch in the memory file.
    RecordEpoch(DeviceEpoch),
}

/// Why a handshake is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SessionRefusal {
    /// A newer epoch of the device is known.
    #[error("epoch {epoch} is fenced: epoch {known} of this device is known")]
    OldEpoch {
        /// The refused one.
        epoch: Epoch,
        /// The known one.
        known: Epoch,
    },
    /// The same epoch was taken by another session.
    #[error("epoch {epoch} of this device is taken by another session")]
    EpochTaken {
        /// The epoch.
        epoch: Epoch,
    },
    /// The table of devices is full of devices in use.
    #[error("this server already serves as many devices as it can")]
    TooManyDevices,
}

/// Refusals since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionCounters {
    /// Handshakes and operations of an outdated epoch.
    pub refused_epoch: u64,
    /// Operations on slots of somebody else.
    pub refused_owner: u64,
}

#[derive(Debug, Clone, Copy)]
struct Device {
    id: SwapDeviceId,
    epoch: Epoch,
    /// Unknown after a restart, until the first handshake.
    session: Option<SessionId>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    /// Place in the device table.
    place: u16,
    epoch: Epoch,
    queue: u16,
}

/// Devices and the connections that speak for them.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    devices: Vec<Option<Device>>,
    connections: Vec<Option<Session>>,
    counters: SessionCounters,
}

impl Sessions {
    pub(super) fn restore(limits: CoreLimits, kept: &[DeviceEpoch]) -> Self {
        let mut devices = vec![None; limits.devices_max.min(usize::from(u16::MAX))];
        for known in kept {
            if let Some(place) = devices.get_mut(usize::from(known.place)) {
                *place = Some(Device {
                    id: known.device,
                    epoch: known.epoch,
                    session: None,
                });
            }
        }
        Self {
            devices,
            connections: vec![None; limits.connections_max],
            counters: SessionCounters::default(),
        }
    }

    pub(super) fn open(
        &mut self,
        connection: ConnectionIndex,
        hello: Hello,
        effects: &mut Vec<SessionEffect>,
        in_use: impl Fn(SwapDeviceId) -> bool,
    ) -> Result<(), SessionRefusal> {
        let place = match self.place_of(hello.device) {
            Some(place) => {
                self.refuse_if_fenced(place, hello)?;
                place
            }
            None => self
                .free_place(in_use)
                .ok_or(SessionRefusal::TooManyDevices)?,
        };
        self.close_superseded(place, hello, effects);
        let newer = self
            .device_at(place)
            .is_none_or(|known| known.id != hello.device || known.epoch < hello.epoch);
        if newer {
            effects.push(SessionEffect::RecordEpoch(DeviceEpoch {
                place,
                device: hello.device,
                epoch: hello.epoch,
            }));
        }
        self.devices[usize::from(place)] = Some(Device {
            id: hello.device,
            epoch: hello.epoch,
            session: Some(hello.session),
        });
        self.connections[connection.as_usize()] = Some(Session {
            place,
            epoch: hello.epoch,
            queue: hello.queue,
        });
        Ok(())
    }

    fn device_at(&self, place: u16) -> Option<Device> {
        self.devices.get(usize::from(place)).copied().flatten()
    }

    fn place_of(&self, device: SwapDeviceId) -> Option<u16> {
        (0_u16..)
            .zip(&self.devices)
            .find(|(_, known)| known.is_some_and(|known| known.id == device))
            .map(|(place, _)| place)
    }

    /// A place that was never taken, else that of the first device without slots and sessions:
    /// its epoch protects nothing here.
    fn free_place(&self, in_use: impl Fn(SwapDeviceId) -> bool) -> Option<u16> {
        let empty = (0_u16..).zip(&self.devices).find(|(_, d)| d.is_none());
        let idle = |(place, device): &(u16, &Option<Device>)| {
            let open = self.connections.iter().flatten().any(|s| s.place == *place);
            !open && device.is_some_and(|device| !in_use(device.id))
        };
        empty
            .or_else(|| (0_u16..).zip(&self.devices).find(idle))
            .map(|(place, _)| place)
    }

    fn refuse_if_fenced(&mut self, place: u16, hello: Hello) -> Result<(), SessionRefusal> {
        let Some(known) = self.device_at(place) else {
            return Ok(());
        };
        let epoch = hello.epoch;
        let taken = known
            .session
            .is_some_and(|session| session != hello.session);
        let refusal = match epoch.cmp(&known.epoch) {
            std::cmp::Ordering::Less => SessionRefusal::OldEpoch {
                epoch,
                known: known.epoch,
            },
            std::cmp::Ordering::Equal if taken => SessionRefusal::EpochTaken { epoch },
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => return Ok(()),
        };
        self.counters.refused_epoch += 1;
        Err(refusal)
    }

    /// Closes what an accepted handshake replaces: every connection of an older epoch, and one of
    /// the same queue, which may still hold writes that the borrower has given up.
    fn close_superseded(&mut self, place: u16, hello: Hello, effects: &mut Vec<SessionEffect>) {
        for (index, entry) in (0_u16..).zip(&mut self.connections) {
            let superseded = entry.is_some_and(|session| {
                session.place == place
                    && (session.epoch < hello.epoch || session.queue == hello.queue)
            });
            if superseded {
                *entry = None;
                effects.push(SessionEffect::Close(ConnectionIndex(index)));
            }
        }
    }

    pub(super) fn close(&mut self, connection: ConnectionIndex) {
        if let Some(entry) = self.connections.get_mut(connection.as_usize()) {
            *entry = None;
        }
    }

    /// The device for which the connection may speak now.
    pub(super) fn device(
        &mut self,
        connection: ConnectionIndex,
    ) -> Result<SwapDeviceId, OperationError> {
        let session = self.connections.get(connection.as_usize());
        let device = session
            .copied()
            .flatten()
            .and_then(|session| self.device_at(session.place).zip(Some(session)))
            .filter(|(device, session)| device.epoch == session.epoch);
        match device {
            Some((device, _)) => Ok(device.id),
            None => {
                self.counters.refused_epoch += 1;
                Err(OperationError::OldEpoch)
            }
        }
    }

    pub(super) fn epoch(&self, device: SwapDeviceId) -> Option<Epoch> {
        let place = self.place_of(device)?;
        self.device_at(place).map(|device| device.epoch)
    }

    pub(super) const fn count_refused_owner(&mut self) {
        self.counters.refused_owner += 1;
    }

    pub(super) const fn counters(&self) -> SessionCounters {
        self.counters
    }
}
