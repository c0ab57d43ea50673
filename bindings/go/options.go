package dlock

import "time"

// RedisLockerOption sets something of a [RedisLocker]; see [New]. What is wrong with a value is told by NewLock.
type RedisLockerOption func(*RedisLocker)

// WithRedisHost sets the server's host, "localhost" if not given: a name, an IPv4 or an IPv6 address.
func WithRedisHost(host string) RedisLockerOption {
	return func(r *RedisLocker) {
		r.host = host
		r.set(setting{what: setHost, text: host})
	}
}

// WithRedisPort sets the server's TCP port, "6379" if not given.
func WithRedisPort(port string) RedisLockerOption {
	return func(r *RedisLocker) {
		r.port = port
		r.set(setting{what: setPort, text: port})
	}
}

// WithURL sets the server by a URL: redis://[user:password@]host[:port][/db], the same with TLS as rediss://,
// redis-sentinel://host[,host]/service[/db] for the primary that sentinels name,
// redis-cluster://[user:password@]host:port,host:port for a Redis Cluster, redis-quorum://[user:password@]host,host,host for a
// majority of 3, 5 or 7 independent servers, redis+unix:///path/to/socket, or memory://name for a store inside the process,
// for tests. Parameters (certificates, the name of the client, pings, how many replicas must have a lock), behind a ?, are
// listed in docs/deployments.md. Of several options that name the server the last one wins.
func WithURL(url string) RedisLockerOption {
	return func(r *RedisLocker) {
		r.url = url
		r.set(setting{what: setURL, text: url})
	}
}

// WithLease sets how long the server keeps a lock that is not renewed: 30 seconds if not given, 100 milliseconds at
// least. This is how long others wait for a holder that crashed.
func WithLease(lease time.Duration) RedisLockerOption {
	return func(r *RedisLocker) { r.set(setting{what: setLease, duration: lease}) }
}

// WithAutoRenew sets whether held locks are renewed in the background, every third of their lease; they are if this is
// not given.
func WithAutoRenew(renew bool) RedisLockerOption {
	return func(r *RedisLocker) { r.set(setting{what: setAutoRenew, flag: renew}) }
}

// WithoutRenewal is WithAutoRenew(false): a lock is lost when its lease ends, unless [RedisLocker.Extend] lengthens it.
func WithoutRenewal() RedisLockerOption { return WithAutoRenew(false) }

// WithConnectTimeout sets how long one attempt to connect may take, the look-up of the name included; 5 seconds if not
// given.
func WithConnectTimeout(timeout time.Duration) RedisLockerOption {
	return func(r *RedisLocker) { r.set(setting{what: setConnectTimeout, duration: timeout}) }
}

// WithResponseTimeout sets how long the server may take to answer before the connection counts as lost, and how long calls
// without a deadline then try to reconnect; 5 seconds if not given.
func WithResponseTimeout(timeout time.Duration) RedisLockerOption {
	return func(r *RedisLocker) { r.set(setting{what: setResponseTimeout, duration: timeout}) }
}

type settingKind int

const (
	setHost settingKind = iota
	setPort
	setURL
	setLease
	setAutoRenew
	setConnectTimeout
	setResponseTimeout
)

// setting is one option given, kept until the first NewLock passes it to the library, which judges it.
type setting struct {
	what     settingKind
	text     string
	duration time.Duration
	flag     bool
}

func (r *RedisLocker) set(s setting) {
	r.settings = append(r.settings, s)
}
