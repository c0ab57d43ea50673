package dlock

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificates makes a CA and a certificate for 127.0.0.1, and returns the paths of CA, certificate and key.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	ca, cert, key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	caKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ownKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	year := func(from int) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(int64(from)), Subject: pkix.Name{CommonName: strconv.Itoa(from)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true}
	}
	issuer, own := year(1), year(2)
	issuer.IsCA, issuer.KeyUsage = true, x509.KeyUsageCertSign
	own.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	caDER, err := x509.CreateCertificate(rand.Reader, issuer, issuer, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	certDER, err := x509.CreateCertificate(rand.Reader, own, issuer, &ownKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(ownKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, ca, "CERTIFICATE", caDER)
	writePEM(t, cert, "CERTIFICATE", certDER)
	writePEM(t, key, "PRIVATE KEY", keyDER)
	return ca, cert, key
}

// programWithTLS finds the first server that was built with TLS: it does not stumble over tls-port.
func programWithTLS(t *testing.T) string {
	t.Helper()
	program := os.Getenv("DLOCK_TEST_SERVER")
	if program == "" {
		program = "redis-server"
	}
	for _, each := range append([]string{program}, filepath.SplitList(os.Getenv("DLOCK_TEST_SERVERS"))...) {
		said, _ := exec.Command(each, "--port", "0", "--tls-port", "0", "--version").CombinedOutput()
		if !strings.Contains(string(said), "'tls-port") {
			return each
		}
	}
	t.Fatal("no server that was built with TLS: name one in DLOCK_TEST_SERVER")
	return ""
}

func TestTLSWithAClientsCertificateAndName(t *testing.T) {
	ca, cert, key := certificates(t)
	t.Setenv("DLOCK_TEST_SERVER", programWithTLS(t))
	s := privateServer(t)
	port, err := freePort()
	want(t, err)
	for _, setting := range [][2]string{{"tls-cert-file", cert}, {"tls-key-file", key}, {"tls-ca-cert-file", ca}, {"tls-port", port}} {
		if answer := s.must(t, "CONFIG", "SET", setting[0], setting[1]); answer != "+OK" && !strings.HasPrefix(setting[0], "tls-cert") {
			t.Log(setting[0], answer) // one half of a pair is refused until the other is there
		}
	}
	url := "rediss://127.0.0.1:" + port + "?client_name=go-test&ca=" + ca
	_, err = New(WithURL(url)).NewLock("n", "test")
	want(t, err, ErrRedisClientNotConnected)
	if !strings.Contains(err.Error(), "client's certificate") {
		t.Fatal(err)
	}
	r := New(WithURL(url + "&cert=" + cert + "&key=" + key))
	defer r.Close()
	lock, waiter := newLock(t, r, "n"), newLock(t, r, "n")
	want(t, r.Lock(lock))
	done := make(chan error)
	go func() { done <- r.Lock(waiter) }()
	eventually(t, "a client is seen by its name", func() bool {
		return strings.Contains(clientList(t, s), " name=go-test ")
	})
	want(t, r.Unlock(lock))
	want(t, <-done)
	want(t, r.Unlock(waiter))
}

// clientList is the whole answer, of which command returns a line.
func clientList(t *testing.T, s *server) string {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+s.port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("CLIENT LIST\r\n"))
	buffer := make([]byte, 64*1024)
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	count, err := conn.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:count])
}

func TestWarnings(t *testing.T) {
	s := privateServer(t)
	r := s.locker(t)
	newLock(t, r, "n")
	if told, err := r.Warnings(); err != nil || told != nil {
		t.Fatal(told, err)
	}
	s.must(t, "CONFIG", "SET", "maxmemory", "100mb")
	s.must(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	other := s.locker(t)
	newLock(t, other, "n")
	told, err := other.Warnings()
	want(t, err)
	if len(told) != 1 || !strings.Contains(told[0], "allkeys-lru") {
		t.Fatal(told)
	}
	other.Close()
	_, err = other.Warnings()
	want(t, err, ErrClosed)
}

func TestAPasswordIsNotShown(t *testing.T) {
	for _, url := range []string{"redis://u:hunter2@127.0.0.1:1", "redis+unix:///none?user=u&pass=x@hunter2",
		"rediss://u:hunter2@127.0.0.1:1?nothing=such", "redis://u:hunter2"} {
		r := New(WithURL(url))
		_, err := r.NewLock("n", "test")
		other, made := shared.locker(t), newLock(t, newLocker(t), "n")
		mixed := r.Unlock(made)
		if err == nil || mixed == nil {
			t.Fatal(url, err, mixed)
		}
		for _, text := range []string{err.Error(), mixed.Error(), redacted(url)} {
			if strings.Contains(text, "hunter2") && url != "redis://u:hunter2" {
				t.Fatal(text)
			}
		}
		if strings.Contains(err.Error()+mixed.Error(), "hunter2") {
			t.Fatal(err, mixed)
		}
		other.Close()
	}
}

// TestSentinel reaches a server by the name that a sentinel has for it.
func TestSentinel(t *testing.T) {
	s := privateServer(t)
	port, err := freePort()
	want(t, err)
	program := os.Getenv("DLOCK_TEST_SERVER")
	if program == "" {
		program = "redis-server"
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "sentinel.conf")
	text := "bind 127.0.0.1\nport " + port + "\ndir " + dir + "\nsentinel monitor mymaster 127.0.0.1 " + s.port + " 1\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := exec.Command(program, file, "--sentinel")
	if err := sentinel.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sentinel.Process.Kill()
		sentinel.Wait()
	})
	eventually(t, "the sentinel listens", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	_, err = New(WithURL("redis-sentinel://127.0.0.1:"+port+"/other")).NewLock("n", "test")
	want(t, err, ErrRedisClientNotConnected)
	if !strings.Contains(err.Error(), "no sentinel knows it") {
		t.Fatal(err)
	}
	r := New(WithURL("redis-sentinel://127.0.0.1:" + port + "/mymaster?client_name=go-test"))
	defer r.Close()
	lock := newLock(t, r, "n")
	want(t, r.Lock(lock))
	if !strings.Contains(clientList(t, s), " name=go-test ") {
		t.Fatal("not on the server that the sentinel named")
	}
	want(t, r.Unlock(lock))
}
