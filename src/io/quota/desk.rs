//! Where books are kept: one desk per group, found by its name, dropped when unused. Knows who is at work at a desk and
//! which desks have something to tell the ledger; decides nothing about limits.

use super::Desks;
use super::Settings;
use super::ledgers::{Group, Ledgers, UsageRows};
use super::nudge::Nudge;
use super::watch::Watch;
use crate::domain::units::Micros;
use crate::logic::quota::alert::Spent;
use crate::logic::quota::book::{BOOK_WAITERS_MAX, Book, Home};
use crate::logic::quota::lease::Link;
use crate::logic::quota::period::Moment;
use crate::logic::quota::plan::QuotaAsk;
use crate::ports::{Clock, SpendWatch, Spending};
use dashmap::DashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Books above which unused ones are dropped without waiting for the next sweep. Books in use are never dropped, so the
/// true bound is this plus the tenants in use.
pub const BOOKS_SOFT_MAX: usize = 16_384;

/// One group's book.
pub struct Desk {
    /// The group.
    pub group: Group,
    /// Its accounts.
    pub book: Mutex<Book>,
    /// One call to the ledger at a time.
    pub turn: tokio::sync::Mutex<()>,
    /// Calls that were begun: one that was begun later than a request has asked, asks for that request too.
    pub flights: AtomicU64,
    waiting: AtomicUsize,
    enlisted: AtomicBool,
    errands: Arc<Errands>,
}

/// What is to be done after work at a desk, once its book is closed again.
pub struct Owed {
    /// There is something to tell the ledger.
    tells: bool,
    /// Accounts whose beginning the rows may know.
    unseeded: Vec<Arc<str>>,
    /// Budgets of which somebody is to be told.
    spent: Vec<Spent>,
}

impl Owed {
    /// Taken out of a book that is still open.
    pub fn of(book: &mut Book) -> Self {
        Self { tells: book.owes(), unseeded: book.unseeded(), spent: book.take_spent() }
    }
}

/// What the desks want done.
#[derive(Default)]
pub struct Errands {
    /// Desks with something to tell.
    pub telling: Mutex<Vec<Arc<Desk>>>,
    /// Accounts whose beginning must be asked of the rows.
    pub seeds: Mutex<Vec<(Arc<Desk>, Arc<str>)>>,
    /// There are such accounts.
    pub seeding: Notify,
    /// The ledger has lost something: all must be said again.
    pub lost: AtomicBool,
    /// Who is told how money is spent.
    spend: Option<Arc<dyn SpendWatch>>,
}

/// Waits at a desk; ends when dropped.
pub struct Waiting<'a>(&'a Desk);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Desk {
    fn new(group: Group, book: Book, errands: &Arc<Errands>) -> Arc<Self> {
        Arc::new(Self {
            group,
            book: Mutex::new(book),
            turn: tokio::sync::Mutex::new(()),
            flights: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            enlisted: AtomicBool::new(false),
            errands: Arc::clone(errands),
        })
    }

    /// A place in the queue for the ledger; `None` if it is too long.
    pub fn queue_up(&self) -> Option<Waiting<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Waiting(self);
        (before < BOOK_WAITERS_MAX).then_some(place)
    }

    /// Notes that this desk has something to tell the ledger.
    pub fn enlist(self: &Arc<Self>) {
        if !self.enlisted.swap(true, Ordering::AcqRel) {
            self.errands.telling.lock().push(Arc::clone(self));
        }
    }

    /// Sees to what came of work at this desk.
    pub fn attend(self: &Arc<Self>, owed: Owed) {
        self.tell_spent(&owed.spent);
        if owed.tells {
            self.enlist();
        }
        if !owed.unseeded.is_empty() {
            self.ask_rows(owed.unseeded);
        }
    }

    /// Has the rows asked what accounts begin with.
    pub fn ask_rows(self: &Arc<Self>, accounts: Vec<Arc<str>>) {
        self.errands.seeds.lock().extend(accounts.into_iter().map(|account| (Arc::clone(self), account)));
        self.errands.seeding.notify_one();
    }

    /// Tells who watches money how budgets stand.
    pub fn tell_spent(&self, spent: &[Spent]) {
        let Some(watch) = &self.errands.spend else { return };
        let tenant = match &self.group {
            Group::Tenant(tenant) => Some(tenant),
            Group::Shared => None,
        };
        for Spent { scope, rule, committed, period } in spent {
            watch.seen(&Spending { tenant, scope, rule, committed: *committed, period: *period });
        }
    }

    /// It is being listened to.
    pub fn delist(&self) {
        self.enlisted.store(false, Ordering::Release);
    }
}

/// All desks.
pub struct Hall {
    home: Home,
    tenants: DashMap<Group, Arc<Desk>>,
    shared: Arc<Desk>,
    sweep_at: AtomicUsize,
    /// `limits.hold_ttl`.
    pub ttl: Micros,
    /// This process.
    pub replica: Arc<str>,
    /// The ledger; `None`: this process counts alone.
    pub ledgers: Option<Arc<dyn Ledgers>>,
    /// The usage rows.
    pub rows: Option<Arc<dyn UsageRows>>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub watch: Arc<dyn Watch>,
    /// Tells the reconciler that a counter may be wrong.
    pub nudge: Nudge,
    /// What the desks want done.
    pub errands: Arc<Errands>,
    /// Live replicas as last heard.
    pub replicas: AtomicU64,
}

impl Hall {
    /// No tenant has used anything yet.
    pub fn open(home: Home, ledgers: Option<Arc<dyn Ledgers>>, settings: Settings) -> Arc<Self> {
        let errands = Arc::new(Errands { spend: settings.spend.clone(), ..Errands::default() });
        let ttl = Micros::from(settings.hold_ttl);
        let book = Book::new(home, ttl, settings.rows.is_some());
        Arc::new(Self {
            home,
            tenants: DashMap::new(),
            shared: Desk::new(Group::Shared, book, &errands),
            sweep_at: AtomicUsize::new(BOOKS_SOFT_MAX),
            ttl,
            replica: settings.replica,
            ledgers,
            rows: settings.rows,
            clock: settings.clock,
            watch: settings.watch,
            nudge: settings.nudge,
            errands,
            replicas: AtomicU64::new(1),
        })
    }

    /// The desks that a request counts at.
    pub fn desks(&self, ask: &QuotaAsk, at: Moment) -> Desks {
        let shared = ask.lines.iter().any(|line| line.scope.is_shared());
        Desks {
            tenant: self.desk(Group::Tenant(ask.tenant.clone()), at),
            shared: shared.then(|| Arc::clone(&self.shared)),
        }
    }

    fn desk(&self, group: Group, at: Moment) -> Arc<Desk> {
        if let Some(desk) = self.tenants.get(&group) {
            return Arc::clone(&desk);
        }
        if self.tenants.len() >= self.sweep_at.load(Ordering::Relaxed) {
            self.sweep(at);
            // Doubling keeps the cost per new tenant constant even if all books are in use.
            self.sweep_at.store((2 * self.tenants.len()).max(BOOKS_SOFT_MAX), Ordering::Relaxed);
        }
        let new = || Desk::new(group.clone(), Book::new(self.home, self.ttl, self.rows.is_some()), &self.errands);
        Arc::clone(&self.tenants.entry(group.clone()).or_insert_with(new))
    }

    /// A desk that is there.
    pub fn known(&self, group: &Group) -> Option<Arc<Desk>> {
        match group {
            Group::Shared => Some(Arc::clone(&self.shared)),
            Group::Tenant(_) => self.tenants.get(group).map(|desk| Arc::clone(&desk)),
        }
    }

    /// Every desk.
    pub fn all(&self) -> Vec<Arc<Desk>> {
        let tenants = self.tenants.iter().map(|desk| Arc::clone(&desk));
        tenants.chain([Arc::clone(&self.shared)]).collect()
    }

    /// Every group that has a desk.
    pub fn groups(&self) -> Vec<Group> {
        self.tenants.iter().map(|desk| desk.key().clone()).chain([Group::Shared]).collect()
    }

    /// Drops unused accounts and books.
    pub fn sweep(&self, at: Moment) {
        // Counted under the map's own lock: a desk with a second owner has a request at it, or about to be.
        self.tenants.retain(|_, desk| {
            let mut book = desk.book.lock();
            let now = book.now(at);
            let unused = book.sweep(&now);
            Arc::strong_count(desk) > 1 || !unused
        });
        let mut book = self.shared.book.lock();
        let now = book.now(at);
        book.sweep(&now);
    }

    /// Tenants' desks.
    pub fn tenants(&self) -> usize {
        self.tenants.len()
    }

    /// Whether the ledger may be asked.
    pub fn link(&self) -> Link {
        match &self.ledgers {
            Some(ledgers) if !ledgers.is_up() => self.link_down(),
            _ => Link::Up,
        }
    }

    /// The ledger did not answer.
    pub fn link_down(&self) -> Link {
        Link::Down { replicas: self.replicas.load(Ordering::Relaxed).max(1) }
    }

    /// Both clocks now.
    pub fn moment(&self) -> Moment {
        Moment { mono: self.clock.mono(), wall: self.clock.wall() }
    }
}
