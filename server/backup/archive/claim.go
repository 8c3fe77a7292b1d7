package archive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/server/backup/store"
)

const agentName = "agent.json"

// Agent is agent.json: the agent that began last. One that finds another there stops. Until it has found out, both may
// write, which does no harm: what they write is the same.
type Agent struct {
	ID    string    `json:"id"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
}

// Claim makes an agent the one that writes.
func Claim(ctx context.Context, st store.Store, a Agent) error {
	return writeJSON(ctx, st, agentName, a)
}

// ErrTakenOver says that another agent has claimed the archive.
var ErrTakenOver = errors.New("another agent has taken over this archive")

// Check finds out whether an agent still is the one that writes. ErrTakenOver.
func Check(ctx context.Context, st store.Store, a Agent) error {
	var have Agent
	err := readJSON(ctx, st, agentName, &have)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return Claim(ctx, st, a)
	case err != nil:
		return err
	case have.ID != a.ID:
		return fmt.Errorf("%w: it runs on %s since %s", ErrTakenOver, have.Host, have.Since.UTC().Format(time.RFC3339))
	}
	return nil
}
