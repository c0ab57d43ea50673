package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	redsyncpool "github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"
)

const lease = 30 * time.Second

// A server answers the requests that ../peers/README.md describes, as all programs of that comparison do. In difference
// to the other measurements of this program, the contenders retry as their documentation has it.
type server struct {
	open   map[string]func(name string) taker
	kept   map[string]taker // lock objects of earlier requests, by contender and name
	passed func() error     // releases the lock that another process wants too
}

// A taker takes one lock, again and again, and answers how to release it.
type taker func(ctx context.Context) (release func() error, err error)

func serve(port string) {
	s := server{open: openers(port), kept: map[string]taker{}}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan() && lines.Text() != "quit"; {
		words := strings.Fields(lines.Text())
		var goroutines, ms int
		switch {
		case len(words) < 2 || s.open[words[0]] == nil:
			fmt.Println("! no such contender or request")
		case len(words) == 2:
			fmt.Println(s.pass(words[0], words[1]))
		default:
			if _, err := fmt.Sscan(strings.Join(words[2:], " "), &goroutines, &ms); err != nil {
				fmt.Println("! not a request")
				continue
			}
			fmt.Println(block(s.takers(words[0], words[1], goroutines), words[1] == "hot", time.Duration(ms)*time.Millisecond))
		}
	}
}

func (s *server) taker(contender, name string, i int) taker {
	key := fmt.Sprint(contender, ":", name, " ", i)
	if s.kept[key] == nil {
		s.kept[key] = s.open[contender](contender + ":" + name)
	}
	return s.kept[key]
}

func (s *server) takers(contender, mode string, goroutines int) []taker {
	takers := make([]taker, goroutines)
	for i := range takers {
		name := "hot"
		if mode == "own" {
			name = fmt.Sprint("own-", i)
		}
		takers[i] = s.taker(contender, name, i)
	}
	return takers
}

// pass takes the lock that another process wants too, or gives it, and answers when it was taken, or before it was given.
func (s *server) pass(contender, what string) string {
	at := time.Now()
	var err error
	if what == "take" {
		s.passed, err = s.taker(contender, "passed", 0)(context.Background())
		at = time.Now()
	} else {
		err = s.passed()
	}
	if err != nil {
		return "! " + err.Error()
	}
	return fmt.Sprintf("%.1f", float64(at.UnixNano())/1e3)
}

func openers(port string) map[string]func(string) taker {
	address := "127.0.0.1:" + port
	ours := open(port) // leases of 30 s
	client := redis.NewClient(&redis.Options{Addr: address, PoolSize: 64})
	sync4 := redsync.New(redsyncpool.NewPool(client))
	bsm := redislock.New(client)
	// One server has no majority to ask for. Its default lease is 5 s.
	rueidisLocker, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{address}}, KeyMajority: 1, KeyValidity: lease,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return map[string]func(string) taker{
		"dlock-go": func(name string) taker {
			lock, err := ours.NewLock(name, "bench")
			if err != nil {
				panic(err)
			}
			return func(ctx context.Context) (func() error, error) {
				return func() error { return ours.Unlock(lock) }, ours.LockContext(ctx, lock)
			}
		},
		// Its default delay, 50 to 250 ms at random; 32 tries are its default, after which it fails.
		"redsync": func(name string) taker {
			mutex := sync4.NewMutex(name, redsync.WithExpiry(lease), redsync.WithTries(1<<30))
			return func(ctx context.Context) (func() error, error) {
				return func() error { _, err := mutex.Unlock(); return err }, mutex.LockContext(ctx)
			}
		},
		// Without a strategy it does not retry; this is that of its example, without its limit of three.
		"redislock": func(name string) taker {
			options := &redislock.Options{RetryStrategy: redislock.LinearBackoff(100 * time.Millisecond)}
			return func(ctx context.Context) (func() error, error) {
				lock, err := bsm.Obtain(ctx, name, lease, options)
				return func() error { return lock.Release(context.Background()) }, err
			}
		},
		// Waits for the server's message that the key is gone.
		"rueidislock": func(name string) taker {
			return func(ctx context.Context) (func() error, error) {
				_, release, err := rueidisLocker.WithContext(ctx, name)
				return func() error { release(); return nil }, err
			}
		},
	}
}

// What one goroutine did in a block.
type share struct {
	times   []time.Duration
	longest time.Duration
	stalls  int
}

func block(takers []taker, hot bool, length time.Duration) string {
	shares := make([]share, len(takers))
	var ready, done sync.WaitGroup
	var end time.Time
	begin := make(chan struct{})
	for i := range takers {
		ready.Add(1)
		done.Add(1)
		go func() {
			defer done.Done()
			ready.Done()
			<-begin
			shares[i].work(takers[i], hot, end)
		}()
	}
	ready.Wait()
	end = time.Now().Add(length)
	close(begin)
	done.Wait()
	var all []time.Duration
	longest, stalls, least, most := time.Duration(0), 0, len(shares[0].times), 0
	for _, s := range shares {
		all = append(all, s.times...)
		longest = max(longest, s.longest)
		stalls += s.stalls
		least = min(least, len(s.times))
		most = max(most, len(s.times))
	}
	slices.Sort(all)
	return fmt.Sprintf("%d %.1f %.1f %.1f %d %d %d", len(all), part(all, 0.5), part(all, 0.99), us(longest), least, most, stalls)
}

func (s *share) work(take taker, hot bool, end time.Time) {
	for before := time.Now(); before.Before(end); {
		release := s.patiently(take)
		acquired := time.Now()
		if err := release(); err != nil {
			panic(err)
		}
		after := time.Now()
		took := after.Sub(before)
		if hot {
			took = acquired.Sub(before)
		}
		s.longest = max(s.longest, took)
		if !after.After(end) {
			s.times = append(s.times, took)
		}
		before = after
	}
}

// Gives up after `patience` and asks again: a contender may forget a waiter. The wait goes on counting.
func (s *share) patiently(take taker) func() error {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		release, err := take(ctx)
		cancel()
		if err == nil {
			return release
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			panic(err)
		}
		s.stalls++
	}
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func part(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return us(sorted[int(share*float64(len(sorted)))])
}
