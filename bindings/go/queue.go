package dlock

// Waiting without a thread. Operations are submitted to the library's completion queue under a number; one goroutine of a
// locker waits for the queue's descriptor in Go's netpoller, takes what is finished, and wakes the goroutines that wait
// for it. Knows nothing of what the operations mean.
//
// What a thread does wait for is one round trip of a lone call: submitting, waking the library's thread, the netpoller and
// two goroutines cost more than the round trip itself. See directLimit.

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// directLimit is below how many round trips under way a call does its own on a thread. Measured on two cores with
// BenchmarkPair, a pair of lock and unlock: a lone goroutine takes 0.15 ms directly and 0.48 ms through the queue; two are
// even; from four on the queue, which writes and reads for many at once, is ahead (16: 0.07 against 0.17 ms).
var directLimit int32 = 2

const (
	// A server this slow leaves direct calls no advantage, only threads; then they pause.
	directSlow  = 20 * time.Millisecond
	directPause = time.Second
	// crossingLimit is how many goroutines at a time may be inside the library for anything else. None of it waits for
	// the server but the connecting of NewLock.
	crossingLimit = 4

	noDeadline time.Duration = -1
)

// native is a locker of the library, its queue, and what waits for the queue's events.
type native struct {
	handles
	file *os.File
	// gate is held for reading by whoever passes the locker or the queue to the library, for writing to free them.
	gate      sync.RWMutex
	freed     bool
	closed    atomic.Bool
	closeOnce sync.Once
	collected chan struct{} // closed when the collecting goroutine has ended
	room      events

	lastID      atomic.Uint64
	roundTrips  atomic.Int32 // under way, but for acquires in the queue, which may wait for long
	directAfter atomic.Int64 // nanoseconds since start
	crossings   chan struct{}
	failures    atomic.Uint64
	failure     atomic.Pointer[answer]

	mu      sync.Mutex
	pending map[uint64]*operation
	// waiting counts those who wait for each lock: who comes later need not try.
	waiting map[lockName]int
	waiters atomic.Int64
	// submitted counts what the library has accepted.
	submitted atomic.Int64

	// held are the locks that are held or being acquired: the collecting goroutine refers to them, so that the garbage
	// collector leaves them alone.
	heldMu sync.Mutex
	held   map[uint64]*lockState
}

type lockName struct{ group, name string }

// operation is one submission. Whoever waits for it is woken through done, or finish is called where nobody waits.
type operation struct {
	answer
	done   chan struct{}
	finish func(answer)
}

var operations = sync.Pool{New: func() any { return &operation{done: make(chan struct{}, 1)} }}

var start = time.Now()

func openNative(settings []setting) (*native, error) {
	h, err := openHandles(settings)
	if err != nil {
		return nil, err
	}
	file, err := h.file()
	if err != nil {
		h.freeLocker()
		h.freeQueue()
		return nil, err
	}
	n := &native{
		handles:   h,
		file:      file,
		collected: make(chan struct{}),
		room:      roomFor(64),
		crossings: make(chan struct{}, crossingLimit),
		pending:   make(map[uint64]*operation),
		waiting:   make(map[lockName]int),
		held:      make(map[uint64]*lockState),
	}
	go n.collect()
	return n, nil
}

// --- events ---

// collect takes events until the locker is closed.
func (n *native) collect() {
	defer close(n.collected)
	conn, err := n.file.SyscallConn()
	if err != nil {
		return
	}
	// The descriptor stays readable, and is the library's to read; the netpoller tells of each event after none.
	_ = conn.Read(func(uintptr) bool { return !n.take(n.room, &n.closed, n.deliver) })
}

func (n *native) deliver(id uint64, kind opKind, a answer) {
	if kind == opLost {
		n.heldMu.Lock()
		state := n.held[id]
		n.heldMu.Unlock()
		if state != nil {
			state.noteLost(a.token, a.message)
		}
		return
	}
	n.mu.Lock()
	op := n.pending[id]
	delete(n.pending, id)
	var finish func(answer)
	if op != nil {
		finish = op.finish
		op.answer = a
	}
	n.mu.Unlock()
	switch {
	case op == nil:
	case finish != nil:
		finish(a)
	default:
		op.done <- struct{}{}
	}
}

// --- calls ---

// enterDirect says whether a call may wait for its round trip on its thread, and then counts it until leaveDirect.
func (n *native) enterDirect() (begun int64, ok bool) {
	begun = int64(time.Since(start))
	if begun < n.directAfter.Load() {
		return 0, false
	}
	if n.roundTrips.Add(1) > directLimit {
		n.roundTrips.Add(-1)
		return 0, false
	}
	return begun, true
}

func (n *native) leaveDirect(begun int64) {
	n.roundTrips.Add(-1)
	n.passOn()
	now := int64(time.Since(start))
	if now-begun > int64(directSlow) {
		n.directAfter.Store(now + int64(directPause))
	}
}

var smallRooms = sync.Pool{New: func() any { room := roomFor(4); return &room }}

// passOn takes the events that a call's own round trip has brought, as a release's reply does for the next one who waits
// here: the netpoller would take longer.
func (n *native) passOn() {
	if n.waiters.Load() == 0 {
		return
	}
	room := smallRooms.Get().(*events)
	passed := false
	n.gate.RLock()
	if !n.freed {
		n.take(*room, &n.closed, func(id uint64, kind opKind, a answer) {
			n.deliver(id, kind, a)
			passed = true
		})
	}
	n.gate.RUnlock()
	smallRooms.Put(room)
	if passed {
		runtime.Gosched() // who was woken is on this thread, and may be the lock's new holder
	}
}

// submit starts an operation; where that fails, the answer says so and there is no operation.
func (n *native) submit(s *lockState, kind opKind, wait time.Duration, retries int) (id uint64, op *operation, a answer) {
	id = n.lastID.Add(1)
	op = operations.Get().(*operation)
	n.mu.Lock()
	n.pending[id] = op
	n.mu.Unlock()

	n.crossings <- struct{}{}
	n.gate.RLock()
	if n.freed {
		a = answer{status: statusClosed}
	} else {
		a = n.submitLock(s.handle, kind, wait, retries, id)
	}
	n.gate.RUnlock()
	<-n.crossings

	if a.status != statusOK {
		n.mu.Lock()
		delete(n.pending, id)
		n.mu.Unlock()
		operations.Put(op)
		return 0, nil, a
	}
	n.submitted.Add(1)
	return id, op, a
}

// wait is for a submitted operation that nothing cancels.
func (n *native) wait(op *operation) answer {
	<-op.done
	return n.recycle(op)
}

func (n *native) recycle(op *operation) answer {
	a := op.answer
	op.answer = answer{}
	operations.Put(op)
	return a
}

// abandon leaves an operation to itself; finish gets its answer. False: the answer is there already.
func (n *native) abandon(id uint64, op *operation, finish func(answer)) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pending[id] != op {
		return false
	}
	op.finish = finish
	return true
}

// open makes a lock handle. Who waited for its turn while the server could not be reached takes that for an answer.
func (n *native) open(name, group string) (handle lockHandle, id uint64, a answer, parsed [16]byte) {
	failures := n.failures.Load()
	n.crossings <- struct{}{}
	defer func() { <-n.crossings }()
	n.gate.RLock()
	defer n.gate.RUnlock()
	if n.freed {
		return nil, 0, answer{status: statusClosed}, parsed
	}
	if n.failures.Load() != failures {
		return nil, 0, *n.failure.Load(), parsed
	}
	id = n.lastID.Add(1)
	handle, parsed, a = n.openLock(name, group, id)
	if a.status == statusNotConnected {
		n.failure.Store(&a)
		n.failures.Add(1)
	}
	return handle, id, a, parsed
}

func (n *native) tell() (string, answer) {
	n.gate.RLock()
	defer n.gate.RUnlock()
	if n.freed {
		return "", answer{status: statusClosed}
	}
	return n.warnings()
}

// --- who waits, who holds ---

// awaited says whether somebody in this process waits for the lock.
func (n *native) awaited(name lockName) bool {
	if n.waiters.Load() == 0 {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting[name] > 0
}

func (n *native) beginWaiting(name lockName) {
	n.waiters.Add(1)
	n.mu.Lock()
	n.waiting[name]++
	n.mu.Unlock()
}

func (n *native) endWaiting(name lockName) {
	n.mu.Lock()
	if n.waiting[name]--; n.waiting[name] == 0 {
		delete(n.waiting, name)
	}
	n.mu.Unlock()
	n.waiters.Add(-1)
}

// keep makes the collecting goroutine refer to s. It returns whether it did already.
func (n *native) keep(s *lockState) bool {
	n.heldMu.Lock()
	defer n.heldMu.Unlock()
	_, kept := n.held[s.id]
	n.held[s.id] = s
	return kept
}

func (n *native) forget(s *lockState) {
	n.heldMu.Lock()
	delete(n.held, s.id)
	n.heldMu.Unlock()
}

// --- the end ---

func (n *native) isClosed() bool { return n.closed.Load() }

// close releases what is held, ends what waits, and frees the library's locker. A second call waits for the first.
func (n *native) close() {
	n.closeOnce.Do(func() {
		n.closed.Store(true)
		n.closeLocker()
		<-n.collected
		n.gate.Lock()
		n.freed = true
		n.gate.Unlock()
		n.freeLocker()
		// What ended while the locker was being closed.
		n.take(n.room, &n.closed, n.deliver)
		n.endAll()
		n.file.Close()
		n.freeQueue()
	})
}

func (n *native) endAll() {
	n.mu.Lock()
	left := make([]uint64, 0, len(n.pending))
	for id := range n.pending {
		left = append(left, id)
	}
	n.mu.Unlock()
	for _, id := range left {
		n.deliver(id, 0, answer{status: statusClosed})
	}
	n.heldMu.Lock()
	states := make([]*lockState, 0, len(n.held))
	for _, state := range n.held {
		states = append(states, state)
	}
	clear(n.held)
	n.heldMu.Unlock()
	for _, state := range states {
		state.end(ErrClosed)
	}
}
