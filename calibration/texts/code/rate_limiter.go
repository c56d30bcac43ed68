// Package limiter lets each client do so many requests per second, with a burst that fills up again while it is idle.
package limiter

import (
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

type bucket struct {
	tokens float64
	last   time.Time
}

// Limiter holds one bucket per key. The zero value refuses everything; use New.
type Limiter struct {
	mu      sync.Mutex
	buckets map[string]*bucket
	rate    float64
	burst   float64
	now     func() time.Time
}

func New(perSecond, burst float64) *Limiter {
	return &Limiter{
		buckets: make(map[string]*bucket),
		rate:    perSecond,
		burst:   burst,
		now:     time.Now,
	}
}

// Allow takes a token if there is one. Otherwise it says how long to wait for the next.
func (l *Limiter) Allow(key string) (bool, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()

	now := l.now()
	b, ok := l.buckets[key]
	if !ok {
		b = &bucket{tokens: l.burst, last: now}
		l.buckets[key] = b
	}
	b.tokens += now.Sub(b.last).Seconds() * l.rate
	if b.tokens > l.burst {
		b.tokens = l.burst
	}
	b.last = now
	if b.tokens >= 1 {
		b.tokens--
		return true, 0
	}
	missing := (1 - b.tokens) / l.rate
	return false, time.Duration(missing * float64(time.Second))
}

// Sweep forgets clients whose bucket is full again: they are no different from new ones.
func (l *Limiter) Sweep() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := 0
	for key, b := range l.buckets {
		if b.tokens+l.now().Sub(b.last).Seconds()*l.rate >= l.burst {
			delete(l.buckets, key)
			gone++
		}
	}
	return gone
}

func (l *Limiter) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		if ok, wait := l.Allow(host); !ok {
			w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
		next.ServeHTTP(w, r)
	})
}
