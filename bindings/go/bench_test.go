package dlock

import (
	"fmt"
	"sync"
	"testing"
)

// BenchmarkPair is NewLock, Lock and Unlock by some goroutines on locks of their own, by directLimit;
// 0 is the queue alone.
func BenchmarkPair(b *testing.B) {
	before := directLimit
	defer func() { directLimit = before }()
	for _, goroutines := range []int{1, 2, 4, 8, 16, 64} {
		for _, limit := range []int32{0, 2, 4} {
			b.Run(fmt.Sprintf("goroutines=%d/direct=%d", goroutines, limit), func(b *testing.B) {
				directLimit = limit
				pairs(b, goroutines, func(i int) string { return fmt.Sprintf("bench-%d", i) })
			})
		}
	}
}

// BenchmarkOneLock is the same on one lock.
func BenchmarkOneLock(b *testing.B) {
	for _, goroutines := range []int{2, 16} {
		b.Run(fmt.Sprintf("goroutines=%d", goroutines), func(b *testing.B) {
			pairs(b, goroutines, func(int) string { return "bench" })
		})
	}
}

func pairs(b *testing.B, goroutines int, name func(int) string) {
	r := newLocker(b)
	newLock(b, r, "warm")
	b.ReportAllocs()
	b.ResetTimer()
	var group sync.WaitGroup
	for i := range goroutines {
		group.Add(1)
		go func() {
			defer group.Done()
			for range (b.N + goroutines - 1) / goroutines {
				lock, err := r.NewLock(name(i), "bench")
				if err == nil {
					err = r.Lock(lock)
				}
				if err == nil {
					err = r.Unlock(lock)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	group.Wait()
}
