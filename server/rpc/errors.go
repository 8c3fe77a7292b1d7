package rpc

import (
	"context"
	"errors"
	"maps"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/raftnode"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/membership"
)

// translation is the one table from the members' errors to what clients see. Where etcd returns the client-side form of an
// error (and so code Unknown on the wire), so does this table.
func translation() map[error]error {
	table := map[error]error{
		membership.ErrIDRemoved:            rpctypes.ErrGRPCMemberNotFound,
		membership.ErrIDNotFound:           rpctypes.ErrGRPCMemberNotFound,
		membership.ErrIDExists:             rpctypes.ErrGRPCMemberExist,
		membership.ErrPeerURLExists:        rpctypes.ErrGRPCPeerURLExist,
		membership.ErrMemberNotLearner:     rpctypes.ErrGRPCMemberNotLearner,
		membership.ErrTooManyLearners:      rpctypes.ErrGRPCTooManyLearners,
		errdefs.ErrNotEnoughStartedMembers: rpctypes.ErrMemberNotEnoughStarted,
		errdefs.ErrLearnerNotReady:         rpctypes.ErrGRPCLearnerNotReady,

		mvcc.ErrCompacted:          rpctypes.ErrGRPCCompacted,
		mvcc.ErrFutureRev:          rpctypes.ErrGRPCFutureRev,
		errdefs.ErrRequestTooLarge: rpctypes.ErrGRPCRequestTooLarge,
		errdefs.ErrNoSpace:         rpctypes.ErrGRPCNoSpace,
		errdefs.ErrTooManyRequests: rpctypes.ErrTooManyRequests,

		errdefs.ErrNoLeader:                   rpctypes.ErrGRPCNoLeader,
		errdefs.ErrNotLeader:                  rpctypes.ErrGRPCNotLeader,
		errdefs.ErrLeaderChanged:              rpctypes.ErrGRPCLeaderChanged,
		errdefs.ErrCanceled:                   rpctypes.ErrGRPCCanceled,
		errdefs.ErrStopped:                    rpctypes.ErrGRPCStopped,
		errdefs.ErrTimeout:                    rpctypes.ErrGRPCTimeout,
		errdefs.ErrTimeoutDueToLeaderFail:     rpctypes.ErrGRPCTimeoutDueToLeaderFail,
		errdefs.ErrTimeoutDueToConnectionLost: rpctypes.ErrGRPCTimeoutDueToConnectionLost,
		errdefs.ErrTimeoutWaitAppliedIndex:    rpctypes.ErrGRPCTimeoutWaitAppliedIndex,
		errdefs.ErrTimeoutLeaderTransfer:      status.Error(codes.Unknown, errdefs.ErrTimeoutLeaderTransfer.Error()),
		errdefs.ErrUnhealthy:                  rpctypes.ErrGRPCUnhealthy,
		errdefs.ErrKeyNotFound:                rpctypes.ErrGRPCKeyNotFound,
		errdefs.ErrCorrupt:                    rpctypes.ErrGRPCCorrupt,
		errdefs.ErrBadLeaderTransferee:        rpctypes.ErrGRPCBadLeaderTransferee,

		errdefs.ErrUnknownMethod:                 status.Error(codes.Unknown, errdefs.ErrUnknownMethod.Error()),
		errdefs.ErrClusterVersionUnavailable:     rpctypes.ErrGRPCClusterVersionUnavailable,
		errdefs.ErrWrongDowngradeVersionFormat:   rpctypes.ErrGRPCWrongDowngradeVersionFormat,
		errdefs.ErrInvalidDowngradeTargetVersion: rpctypes.ErrGRPCInvalidDowngradeTargetVersion,
		errdefs.ErrDowngradeInProcess:            rpctypes.ErrGRPCDowngradeInProcess,
		errdefs.ErrNoInflightDowngrade:           rpctypes.ErrGRPCNoInflightDowngrade,

		lease.ErrLeaseNotFound:    rpctypes.ErrGRPCLeaseNotFound,
		lease.ErrLeaseExists:      rpctypes.ErrGRPCLeaseExist,
		lease.ErrLeaseTTLTooLarge: rpctypes.ErrGRPCLeaseTTLTooLarge,
		lease.ErrNotPrimary:       status.Error(codes.Unknown, lease.ErrNotPrimary.Error()),

		raftnode.ErrStopped:       rpctypes.ErrGRPCStopped,
		raft.ErrProposalDropped:   status.Error(codes.Unknown, raft.ErrProposalDropped.Error()),
		raftnode.ErrLeaderChanged: rpctypes.ErrGRPCLeaderChanged,
		raftnode.ErrTimeout:       rpctypes.ErrGRPCTimeout,
	}
	maps.Copy(table, authTranslation())
	return table
}

func authTranslation() map[error]error {
	return map[error]error{
		auth.ErrRootUserNotExist:     rpctypes.ErrGRPCRootUserNotExist,
		auth.ErrRootRoleNotExist:     rpctypes.ErrGRPCRootRoleNotExist,
		auth.ErrUserAlreadyExist:     rpctypes.ErrGRPCUserAlreadyExist,
		auth.ErrUserEmpty:            rpctypes.ErrGRPCUserEmpty,
		auth.ErrUserNotFound:         rpctypes.ErrGRPCUserNotFound,
		auth.ErrRoleAlreadyExist:     rpctypes.ErrGRPCRoleAlreadyExist,
		auth.ErrRoleNotFound:         rpctypes.ErrGRPCRoleNotFound,
		auth.ErrRoleEmpty:            rpctypes.ErrGRPCRoleEmpty,
		auth.ErrPermissionNotGiven:   rpctypes.ErrGRPCPermissionNotGiven,
		auth.ErrFailed:               rpctypes.ErrGRPCAuthFailed,
		auth.ErrNoPasswordUser:       status.Error(codes.Unknown, auth.ErrNoPasswordUser.Error()),
		auth.ErrPermissionDenied:     rpctypes.ErrGRPCPermissionDenied,
		auth.ErrRoleNotGranted:       rpctypes.ErrGRPCRoleNotGranted,
		auth.ErrPermissionNotGranted: rpctypes.ErrGRPCPermissionNotGranted,
		auth.ErrNotEnabled:           rpctypes.ErrGRPCAuthNotEnabled,
		auth.ErrOldRevision:          rpctypes.ErrGRPCAuthOldRevision,
		auth.ErrInvalidToken:         rpctypes.ErrGRPCInvalidAuthToken,
		auth.ErrInvalidManagement:    rpctypes.ErrGRPCInvalidAuthMgmt,
	}
}

// Translator turns the errors of a member into gRPC errors.
type Translator struct {
	table map[error]error
}

// NewTranslator makes a Translator.
func NewTranslator() *Translator { return &Translator{table: translation()} }

// GRPC translates an error for a client. What the table does not know has code Unknown and its own text, as in etcd.
func (t *Translator) GRPC(err error) error {
	if err == nil {
		return nil
	}
	if g, ok := t.table[err]; ok {
		return g
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err // gRPC has codes of its own for these
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	for known, g := range t.table {
		if errors.Is(err, known) {
			return g
		}
	}
	return status.Error(codes.Unknown, err.Error())
}
