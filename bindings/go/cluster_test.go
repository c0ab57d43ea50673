package dlock

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// clusterNode starts a cluster of one node, which has all slots.
func clusterNode(t *testing.T) *server {
	t.Helper()
	var s *server
	// A node's other port is 10,000 above: some ports will not do.
	for try := 0; s == nil; try++ {
		var err error
		if s, err = startServer("--cluster-enabled", "yes"); err != nil && try == 20 {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.stop)
	slots := []string{"CLUSTER", "ADDSLOTS"}
	for slot := 0; slot < 16384; slot++ {
		slots = append(slots, strconv.Itoa(slot))
	}
	s.must(t, slots...)
	eventually(t, "the cluster is up", func() bool {
		return !strings.HasPrefix(s.must(t, "SET", "probe", "1"), "-CLUSTERDOWN")
	})
	s.must(t, "DEL", "probe")
	return s
}

func TestALockOnAClusterIsWaitedForAndHandedOver(t *testing.T) {
	url := WithURL("redis-cluster://127.0.0.1:" + clusterNode(t).port)
	holding, waiting := New(url), New(url)
	t.Cleanup(func() { holding.Close(); waiting.Close() })
	holder, waiter := newLock(t, holding, "{one} lock"), newLock(t, waiting, "{one} lock")
	want(t, holding.Lock(holder))
	first := holder.Token()
	acquired := make(chan error)
	go func() { acquired <- waiting.LockWithTimeout(waiter, 20*time.Second) }()
	locked, err := waiting.IsLocked(holder)
	if want(t, err); !locked {
		t.Fatal("nobody holds it")
	}
	want(t, holding.Unlock(holder))
	want(t, <-acquired)
	if second := waiter.Token(); first == 0 || second <= first {
		t.Fatalf("token %d after %d", second, first)
	}
	want(t, waiting.Unlock(waiter))
}
