package bench

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keelson-io/keelson/client"
)

// Options say how a workload is run.
type Options struct {
	Endpoints   []string
	TLS         *tls.Config   // nil: only for https endpoints, with the system's authorities
	User        string        // to authenticate as
	Password    string        // of the user
	Clients     int           // workers: operations that are under way at the same time, at most
	Connections int           // to each endpoint
	Duration    time.Duration // of a run, or
	Total       int64         // so many operations; 0: by time
	Rate        float64       // operations a second, open loop; 0: the workload's own, mostly a closed loop
	Keys        int           // size of the key space; 0: the workload's own
	ValueBytes  int
	Pids        []int     // of the servers, to count their processor time and memory
	Progress    io.Writer // a line now and then; nil: none
}

// client is the configuration of a client of some endpoints.
func (o *Options) client(endpoints []string) client.Config {
	return client.Config{Endpoints: endpoints, TLS: o.TLS, Username: o.User, Password: o.Password}
}

// Limits of options, that keep a slip from filling memory.
const (
	maxClients    = 100_000
	maxKeys       = 100_000_000
	maxValueBytes = 1 << 20
)

// Check refuses what makes no sense.
func (o *Options) Check() error {
	switch {
	case len(o.Endpoints) == 0:
		return errors.New("no endpoints are given")
	case o.Clients <= 0 || o.Clients > maxClients:
		return fmt.Errorf("%d clients: there must be 1 to %d", o.Clients, maxClients)
	case o.Total < 0:
		return fmt.Errorf("a total of %d operations cannot be", o.Total)
	case o.Duration <= 0 && o.Total == 0:
		return fmt.Errorf("a duration of %s measures nothing", o.Duration)
	case !(o.Rate >= 0 && o.Rate <= 1e9):
		return fmt.Errorf("a rate of %g operations a second cannot be", o.Rate)
	case o.Keys < 0 || o.Keys > maxKeys:
		return fmt.Errorf("%d keys: there can be up to %d", o.Keys, maxKeys)
	case o.ValueBytes < 0 || o.ValueBytes > maxValueBytes:
		return fmt.Errorf("values of %d bytes: they can have up to %d", o.ValueBytes, maxValueBytes)
	case o.Connections < 0 || o.Connections > 1000:
		return fmt.Errorf("%d connections: there can be up to 1000", o.Connections)
	}
	for _, pid := range o.Pids {
		if _, err := cpuSeconds(pid); err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return nil
}
