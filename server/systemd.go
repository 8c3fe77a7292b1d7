package server

import (
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
)

// manager is the service manager that started the program (systemd with Type=notify, or what speaks its protocol), if there is
// one: it names a socket in NOTIFY_SOCKET.
type manager struct{ lg *zap.Logger }

// say tells the manager how the member does, in lines as in sd_notify(3).
func (m manager) say(state ...string) {
	told, err := daemon.SdNotify(false, strings.Join(state, "\n"))
	switch {
	case err != nil:
		m.lg.Warn("failed to notify the service manager", zap.Strings("state", state), zap.Error(err))
	case told:
		m.lg.Info("notified the service manager", zap.Strings("state", state))
	}
}
