package dlock

// The tests run against a server of their own: DLOCK_TEST_SERVER names its program, else redis-server is looked for.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var shared *server

func TestMain(m *testing.M) {
	var err error
	if shared, err = startServer(); err != nil {
		fmt.Fprintln(os.Stderr, "no server to test against:", err)
		os.Exit(1)
	}
	code := m.Run()
	shared.stop()
	os.Exit(code)
}

type server struct {
	port    string
	dir     string
	more    []string
	process *exec.Cmd
}

// A port at which nobody listens.
func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port), nil
}

func startServer(more ...string) (*server, error) {
	dir, err := os.MkdirTemp("", "dlock-go-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{port: port, dir: dir, more: more}
	if err := s.start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

func (s *server) start() error {
	program := os.Getenv("DLOCK_TEST_SERVER")
	if program == "" {
		program = "redis-server"
	}
	arguments := []string{"--port", s.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir}
	s.process = exec.Command(program, append(arguments, s.more...)...)
	// The server ends with the tests, however they end.
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		return err
	}
	for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		if answer, err := s.command("PING"); err == nil && answer == "+PONG" {
			return nil
		}
	}
	s.kill()
	return errors.New("it does not answer")
}

func (s *server) kill() {
	s.process.Process.Kill()
	s.process.Wait()
}

func (s *server) stop() {
	s.kill()
	os.RemoveAll(s.dir)
}

// command sends one command and returns the first line of the answer.
func (s *server) command(words ...string) (string, error) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+s.port)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	request := fmt.Sprintf("*%d\r\n", len(words))
	for _, word := range words {
		request += fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	line := make([]byte, 0, 64)
	for one := make([]byte, 1); ; line = append(line, one[0]) {
		if _, err := io.ReadFull(conn, one); err != nil {
			return "", err
		}
		if one[0] == '\r' {
			return string(line), nil
		}
	}
}

func (s *server) must(t testing.TB, words ...string) string {
	t.Helper()
	answer, err := s.command(words...)
	if err != nil {
		t.Fatal(words, err)
	}
	return answer
}

func privateServer(t testing.TB) *server {
	t.Helper()
	s, err := startServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

func (s *server) locker(t testing.TB, opts ...RedisLockerOption) *RedisLocker {
	t.Helper()
	r := New(append([]RedisLockerOption{WithRedisHost("127.0.0.1"), WithRedisPort(s.port)}, opts...)...)
	t.Cleanup(func() { r.Close() })
	return r
}

func newLocker(t testing.TB, opts ...RedisLockerOption) *RedisLocker {
	t.Helper()
	return shared.locker(t, opts...)
}

var names atomic.Int64

// freshName is a lock name that no other test uses.
func freshName() string { return fmt.Sprintf("lock-%d", names.Add(1)) }

func newLock(t testing.TB, r Locker, name string) *Lock {
	t.Helper()
	lock, err := r.NewLock(name, "test")
	if err != nil {
		t.Fatal(err)
	}
	return lock
}

func want(t testing.TB, err error, kinds ...error) {
	t.Helper()
	if len(kinds) == 0 && err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
	for _, kind := range kinds {
		if !errors.Is(err, kind) {
			t.Fatalf("error %v, want one that is %v", err, kind)
		}
	}
}

// eventually waits for a condition that nothing announces.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for begun := time.Now(); !condition(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			t.Fatal("it never came to pass: ", what)
		}
	}
}
