package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The feature gates that change what this program does.
const (
	InitialCorruptCheck = "InitialCorruptCheck"
	CompactHashCheck    = "CompactHashCheck"
	SetMemberLocalAddr  = "SetMemberLocalAddr"

	StopGRPCServiceOnDefrag = "StopGRPCServiceOnDefrag"
)

// Stages of a feature.
const (
	alpha = "ALPHA"
	beta  = "BETA"
)

// Gate is one feature gate.
type Gate struct {
	Name    string
	Stage   string
	Enabled bool // of gates(): by default
	// always says that what the gate is for is done anyhow, whether the gate is on or not ("": the gate has its effect).
	always string
}

const (
	allAlpha = "AllAlpha"
	allBeta  = "AllBeta"
)

// gates are etcd's, with its defaults.
func gates() []Gate {
	return []Gate{
		{Name: allAlpha, Stage: alpha},
		{Name: allBeta, Stage: beta},
		{Name: CompactHashCheck, Stage: alpha},
		{Name: "FastLeaseKeepAlive", Stage: beta, Enabled: true, always: "leases are always renewed without waiting for the applied index"},
		{Name: InitialCorruptCheck, Stage: alpha},
		{Name: "LeaseCheckpoint", Stage: alpha, always: "what is left of leases is always recorded"},
		{Name: "LeaseCheckpointPersist", Stage: alpha, always: "what is left of leases is always recorded"},
		{Name: "PriorityRequest", Stage: alpha, always: "revocations of leases always go first"},
		{Name: SetMemberLocalAddr, Stage: alpha},
		{Name: StopGRPCServiceOnDefrag, Stage: alpha},
		{Name: "TxnModeWriteWithSharedBuffer", Stage: beta, Enabled: true, always: "transactions read without a buffer of their own"},
	}
}

// Gates are the feature gates that were set.
type Gates map[string]bool

// Set takes a list such as CompactHashCheck=true,InitialCorruptCheck=false.
func (g *Gates) Set(s string) error {
	set := maps.Clone(*g)
	if set == nil {
		set = Gates{}
	}
	for _, pair := range strings.Split(s, ",") {
		if pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok {
			return fmt.Errorf("missing bool value for %s", name)
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("invalid value of %s=%s, err: %w", name, value, err)
		}
		if !slices.ContainsFunc(gates(), func(k Gate) bool { return k.Name == name }) {
			return fmt.Errorf("unrecognized feature gate: %s", name)
		}
		set[name] = on
	}
	*g = set
	return nil
}

// String is what Set takes.
func (g *Gates) String() string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(*g)) {
		pairs = append(pairs, fmt.Sprintf("%s=%t", name, (*g)[name]))
	}
	return strings.Join(pairs, ",")
}

// Type is for the help.
func (g *Gates) Type() string { return "mapStringBool" }

// All lists the gates as they are set: by themselves, by AllAlpha or AllBeta, or by default.
func (g Gates) All() []Gate {
	all := gates()
	for i := range all {
		k := &all[i]
		group := map[string]string{alpha: allAlpha, beta: allBeta}[k.Stage]
		if on, ok := g[k.Name]; ok {
			k.Enabled = on
		} else if on, ok := g[group]; ok {
			k.Enabled = on
		}
	}
	return all
}

// Enabled says whether a gate is on.
func (g Gates) Enabled(name string) bool {
	return slices.ContainsFunc(g.All(), func(k Gate) bool { return k.Name == name && k.Enabled })
}

// Idle says, for each gate that was set and makes no difference, why.
func (g Gates) Idle() []string {
	var out []string
	for _, k := range g.All() {
		if _, set := g[k.Name]; set && k.always != "" {
			out = append(out, k.Name+": "+k.always)
		}
	}
	return out
}

// check refuses what contradicts itself, as etcd does.
func (g Gates) check() error {
	if g.Enabled("LeaseCheckpointPersist") && !g.Enabled("LeaseCheckpoint") {
		return fmt.Errorf("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")
	}
	return nil
}
