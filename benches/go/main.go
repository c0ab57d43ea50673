// Measures the Go package against its peers on one server; benches/run.py runs it.
//
//	peers <port> <seconds> <waiters>
//	peers serve <port>                 serves the comparison with programs in other languages: serve.go
//
// Each line is "name key value". Contenders take turns in short blocks, so that a machine that does other things too
// treats them alike; a figure is the median of its blocks.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/araminian/dlock"
	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	redsyncpool "github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"
)

const rounds = 7

// A contender takes the lock of that name and answers how to release it.
type contender struct {
	name    string
	acquire func(ctx context.Context, name string) (func(), error)
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		serve(os.Args[2])
		return
	}
	port, seconds, waiters := os.Args[1], 1.0, 100_000
	if len(os.Args) > 2 {
		seconds, _ = strconv.ParseFloat(os.Args[2], 64)
	}
	if len(os.Args) > 3 {
		waiters, _ = strconv.Atoi(os.Args[3])
	}
	costs(port)
	waiting(port, waiters)
	all := contenders(port)
	block := time.Duration(seconds * float64(time.Second))
	for _, goroutines := range []int{1, 64} {
		rates := map[string][]float64{}
		for range rounds {
			for _, c := range all {
				rates[c.name] = append(rates[c.name], ownLocks(c, goroutines, block))
			}
		}
		for _, c := range all {
			fmt.Printf("%s own_%d %.0f\n", c.name, goroutines, median(rates[c.name]))
		}
	}
	results := map[string][]hot{}
	for range rounds {
		for _, c := range all {
			results[c.name] = append(results[c.name], oneLock(c, 16, block))
		}
	}
	for _, c := range all {
		pick := func(f func(hot) float64) float64 {
			var values []float64
			for _, h := range results[c.name] {
				values = append(values, f(h))
			}
			return median(values)
		}
		fmt.Printf("%s hot_rate %.0f\n", c.name, pick(func(h hot) float64 { return h.rate }))
		fmt.Printf("%s hot_longest_ms %.1f\n", c.name, pick(func(h hot) float64 { return h.longest }))
		fmt.Printf("%s hot_handoff_us %.0f\n", c.name, pick(func(h hot) float64 { return h.handoff }))
	}
	for _, c := range all {
		fmt.Printf("%s allocs %.0f\n", c.name, allocations(c))
		count, _ := stalls.LoadOrStore(c.name, new(atomic.Int64))
		fmt.Printf("%s stalls %d\n", c.name, count.(*atomic.Int64).Load())
	}
}

func open(port string) *dlock.RedisLocker {
	return dlock.New(dlock.WithRedisHost("127.0.0.1"), dlock.WithRedisPort(port))
}

func contenders(port string) []contender {
	address := "127.0.0.1:" + port
	ours := open(port)
	client := redis.NewClient(&redis.Options{Addr: address, PoolSize: 64})
	sync4 := redsync.New(redsyncpool.NewPool(client))
	bsm := redislock.New(client)
	rueidisLocker, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{address}}, KeyMajority: 1,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	retry := redislock.LinearBackoff(time.Millisecond)
	return []contender{
		{"dlock", func(ctx context.Context, name string) (func(), error) {
			lock, err := ours.NewLock(name, "bench")
			if err != nil {
				return nil, err
			}
			return func() { _ = ours.Unlock(lock) }, ours.LockContext(ctx, lock)
		}},
		{"redsync", func(ctx context.Context, name string) (func(), error) {
			mutex := sync4.NewMutex("redsync:"+name, redsync.WithTries(1<<20), redsync.WithRetryDelay(time.Millisecond))
			return func() { _, _ = mutex.Unlock() }, mutex.LockContext(ctx)
		}},
		{"bsm/redislock", func(ctx context.Context, name string) (func(), error) {
			lock, err := bsm.Obtain(ctx, "bsm:"+name, 8*time.Second, &redislock.Options{RetryStrategy: retry})
			return func() { _ = lock.Release(context.Background()) }, err
		}},
		{"rueidislock", func(ctx context.Context, name string) (func(), error) {
			_, release, err := rueidisLocker.WithContext(ctx, "rueidis:"+name)
			return release, err
		}},
	}
}

// Pairs a second, each goroutine on a lock of its own.
func ownLocks(c contender, goroutines int, block time.Duration) float64 {
	counts := make([]int, goroutines)
	begun := time.Now()
	each(goroutines, func(i int) {
		for time.Since(begun) < block {
			if release := c.take(fmt.Sprintf("own-%d", i)); release != nil {
				release()
				counts[i]++
			}
		}
	})
	total := 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / time.Since(begun).Seconds()
}

// A contender may forget a waiter: who has waited for patience is counted as stalled, and asks again.
const patience = 2 * time.Second

var stalls sync.Map

func (c contender) take(name string) func() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	release, err := c.acquire(ctx, name)
	if err == nil {
		return release
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		panic(fmt.Sprintf("%s: %v", c.name, err))
	}
	count, _ := stalls.LoadOrStore(c.name, new(atomic.Int64))
	count.(*atomic.Int64).Add(1)
	return nil
}

type hot struct{ rate, longest, handoff float64 }

// All goroutines at one lock: acquisitions a second, the longest wait, and how long the lock changes hands.
func oneLock(c contender, goroutines int, block time.Duration) hot {
	var held sync.Mutex // guards what only the holder writes, should a contender let two in
	var released time.Time
	var handoffs []float64
	longest := make([]float64, goroutines)
	count := 0
	begun := time.Now()
	each(goroutines, func(i int) {
		for time.Since(begun) < block {
			asked := time.Now()
			release := c.take("hot")
			if release == nil {
				continue
			}
			got := time.Now()
			longest[i] = max(longest[i], got.Sub(asked).Seconds()*1e3)
			held.Lock()
			if asked.Before(released) {
				handoffs = append(handoffs, got.Sub(released).Seconds()*1e6)
			}
			count++
			released = time.Now()
			held.Unlock()
			release()
		}
	})
	return hot{float64(count) / time.Since(begun).Seconds(), slices.Max(longest), median(handoffs)}
}

func allocations(c contender) float64 {
	const pairs = 500
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range pairs {
		if release := c.take("allocations"); release != nil {
			release()
		}
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / pairs
}

// What the package is made of: one crossing into C, and one goroutine parked and woken by another.
func costs(port string) {
	const times = 200_000
	lock, err := open(port).NewLock("costs", "bench")
	if err != nil {
		panic(err)
	}
	begun := time.Now()
	for range times {
		lock.Remaining()
	}
	fmt.Printf("dlock crossing_ns %.0f\n", float64(time.Since(begun).Nanoseconds())/times)
	there, back := make(chan struct{}), make(chan struct{})
	go func() {
		for range there {
			back <- struct{}{}
		}
	}()
	begun = time.Now()
	for range times {
		there <- struct{}{}
		<-back
	}
	close(there)
	fmt.Printf("dlock park_ns %.0f\n", float64(time.Since(begun).Nanoseconds())/times/2)
}

// Goroutines that wait for one lock: threads, memory of each beside its stack, and how long it takes to end them all.
func waiting(port string, goroutines int) {
	locker := open(port)
	holder, err := locker.NewLock("waited for", "bench")
	if err == nil {
		err = locker.Lock(holder)
	}
	if err != nil {
		panic(err)
	}
	before, stacks := memory()
	var begun, ended sync.WaitGroup
	begun.Add(goroutines)
	ended.Add(goroutines)
	for range goroutines {
		lock, err := locker.NewLock("waited for", "bench")
		if err != nil {
			panic(err)
		}
		go func() {
			defer ended.Done()
			begun.Done()
			_ = locker.Lock(lock)
		}()
	}
	begun.Wait()
	time.Sleep(3 * time.Second) // until they have joined the queue; what comes later is missing in the figure
	after, stacksAfter := memory()
	threads, _ := os.ReadDir("/proc/self/task")
	fmt.Printf("dlock waiting %d\n", goroutines)
	fmt.Printf("dlock waiting_threads %d\n", len(threads))
	fmt.Printf("dlock waiting_bytes %.0f\n", float64(after-before-(stacksAfter-stacks))/float64(goroutines))
	fmt.Printf("dlock waiting_stack_bytes %.0f\n", float64(stacksAfter-stacks)/float64(goroutines))
	closing := time.Now()
	_ = locker.Close()
	ended.Wait()
	fmt.Printf("dlock waiting_close_ms %.0f\n", time.Since(closing).Seconds()*1e3)
}

// Resident memory of the process, and what of it are stacks of goroutines.
func memory() (resident, stacks int) {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	text, _ := os.ReadFile("/proc/self/statm")
	var size, pages int
	_, _ = fmt.Sscan(string(text), &size, &pages)
	return pages * os.Getpagesize(), int(stats.StackInuse)
}

func each(goroutines int, body func(int)) {
	var group sync.WaitGroup
	for i := range goroutines {
		group.Add(1)
		go func() { defer group.Done(); body(i) }()
	}
	group.Wait()
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}
