package config

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
)

// Tracing says which calls are recorded as OpenTelemetry spans, and where these are sent.
type Tracing struct {
	Enabled  bool
	Address  string // host:port of a collector that takes OTLP over gRPC, without TLS
	Service  string // name of the service; the same for all members
	Instance string // name of this member, which no other has; "": none
	Rate     int    // of a million calls that begin no trace of their own, how many are recorded
}

// maxTracingRate stands for every call.
const maxTracingRate = 1_000_000

func (t *Tracing) flags(fs *pflag.FlagSet) {
	fs.BoolVar(&t.Enabled, "enable-distributed-tracing", t.Enabled, "Record calls as OpenTelemetry spans.")
	fs.StringVar(&t.Address, "distributed-tracing-address", t.Address, "Address (host:port) of the collector of spans, which takes OTLP over gRPC.")
	fs.StringVar(&t.Service, "distributed-tracing-service-name", t.Service, "Name of the service in spans; the same for all members.")
	fs.StringVar(&t.Instance, "distributed-tracing-instance-id", t.Instance, "Name of this member in spans; no two members have the same.")
	fs.IntVar(&t.Rate, "distributed-tracing-sampling-rate", t.Rate, "How many of a million calls are recorded, beside those that their client records.")
}

// checkTracing refuses a rate that is none. Without tracing nothing is refused, as in etcd.
func (c *Config) checkTracing() error {
	t := &c.Tracing
	if !t.Enabled {
		return nil
	}
	var err error
	switch {
	case t.Rate < 0:
		err = errors.New("tracing sampling rate must be positive")
	case t.Rate > maxTracingRate:
		err = fmt.Errorf("tracing sampling rate must be less than %d", maxTracingRate)
	case t.Address == "":
		err = errors.New("--distributed-tracing-address is empty")
	}
	if err != nil {
		return fmt.Errorf("distributed tracing configuration is not valid: %w", err)
	}
	return nil
}
