// Package errdefs is the vocabulary of errors that a member's parts share.
//
// Packages below the server (mvcc, lease, membership) define their own; everything else uses these. The texts are
// etcd's, since clients see them. They are translated once, at the edge: server/rpc has the table to gRPC,
// server/httpapi the one to HTTP, and a test in server/rpc checks that the table is total.
//
// # Concurrency
//
// All values are immutable.
package errdefs

import "errors"

// Errors of a request as a whole.
var (
	ErrStopped                    = errors.New("etcdserver: server stopped")
	ErrCanceled                   = errors.New("etcdserver: request cancelled")
	ErrTimeout                    = errors.New("etcdserver: request timed out")
	ErrTimeoutDueToLeaderFail     = errors.New("etcdserver: request timed out, possibly due to previous leader failure")
	ErrTimeoutDueToConnectionLost = errors.New("etcdserver: request timed out, possibly due to connection lost")
	ErrTimeoutLeaderTransfer      = errors.New("etcdserver: request timed out, leader transfer took too long")
	ErrTimeoutWaitAppliedIndex    = errors.New("etcdserver: request timed out, waiting for the applied index took too long")
	ErrLeaderChanged              = errors.New("etcdserver: leader changed")
	ErrNoLeader                   = errors.New("etcdserver: no leader")
	ErrNotLeader                  = errors.New("etcdserver: not leader")
	ErrRequestTooLarge            = errors.New("etcdserver: request is too large")
	ErrTooManyRequests            = errors.New("etcdserver: too many requests")
)

// Errors that come out of applying a command.
var (
	ErrNoSpace     = errors.New("etcdserver: no space")
	ErrCorrupt     = errors.New("etcdserver: corrupt cluster")
	ErrKeyNotFound = errors.New("etcdserver: key not found")
)

// Errors of changes to the cluster.
var (
	ErrNotEnoughStartedMembers = errors.New("etcdserver: re-configuration failed due to not enough started members")
	ErrLearnerNotReady         = errors.New("etcdserver: can only promote a learner member which is in sync with leader")
	ErrUnhealthy               = errors.New("etcdserver: unhealthy cluster")
	ErrBadLeaderTransferee     = errors.New("etcdserver: bad leader transferee")
)

// Errors of a downgrade of the cluster.
var (
	ErrUnknownMethod                 = errors.New("etcdserver: unknown method")
	ErrClusterVersionUnavailable     = errors.New("etcdserver: cluster version not found during downgrade")
	ErrWrongDowngradeVersionFormat   = errors.New("etcdserver: wrong downgrade target version format")
	ErrInvalidDowngradeTargetVersion = errors.New("etcdserver: invalid downgrade target version")
	ErrDowngradeInProcess            = errors.New("etcdserver: cluster has a downgrade job in progress")
	ErrNoInflightDowngrade           = errors.New("etcdserver: no inflight downgrade job")
)

// All lists every error above, for the totality test of the translation tables.
func All() []error {
	return []error{
		ErrStopped, ErrCanceled, ErrTimeout, ErrTimeoutDueToLeaderFail, ErrTimeoutDueToConnectionLost,
		ErrTimeoutLeaderTransfer, ErrTimeoutWaitAppliedIndex, ErrLeaderChanged, ErrNoLeader, ErrNotLeader,
		ErrRequestTooLarge, ErrTooManyRequests, ErrNoSpace, ErrCorrupt, ErrKeyNotFound,
		ErrNotEnoughStartedMembers, ErrLearnerNotReady, ErrUnhealthy, ErrBadLeaderTransferee,
		ErrUnknownMethod, ErrClusterVersionUnavailable, ErrWrongDowngradeVersionFormat, ErrInvalidDowngradeTargetVersion,
		ErrDowngradeInProcess, ErrNoInflightDowngrade,
	}
}
