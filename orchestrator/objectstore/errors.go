package objectstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/client"
)

const retrySeconds = 1

// The wording of kube-apiserver, which clients and tests look for.
const (
	expiredList     = "The resourceVersion for the provided list is too old."
	expiredContinue = "The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve " +
		"the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that " +
		"were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
)

// storeError makes a client's error of what the store answered to a request that writes, or does not.
func storeError(ctx context.Context, err error, write bool) error {
	var known *apierrors.StatusError
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, rpctypes.ErrRequestTooLarge), status.Code(err) == codes.ResourceExhausted && !errors.Is(err, rpctypes.ErrTooManyRequests) && !errors.Is(err, rpctypes.ErrNoSpace):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		return apierrors.NewTooManyRequests(err.Error(), retrySeconds)
	case write && errors.Is(err, client.ErrUncertain):
		// No Retry-After: client-go would repeat it, and it may have happened.
		return apierrors.NewTimeoutError("the store did not confirm the write, which may have happened: "+err.Error(), 0)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()), errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError("the store did not answer in time: "+err.Error(), retryAfter(write))
	case unavailable(err):
		return busy("the store is not available: " + err.Error())
	}
	return apierrors.NewInternalError(fmt.Errorf("store: %w", err))
}

func retryAfter(write bool) int {
	if write {
		return 0
	}
	return retrySeconds
}

func unavailable(err error) bool {
	if errors.Is(err, client.ErrClosed) || errors.Is(err, context.Canceled) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	var known rpctypes.EtcdError
	return errors.As(err, &known) && known.Code() == codes.Unavailable
}

// busy is 503 with Retry-After.
func busy(text string) error {
	err := apierrors.NewServiceUnavailable(text)
	err.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: retrySeconds}
	return err
}

// tooLarge says that a resourceVersion is not there yet.
func tooLarge(want, have int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", want, have), retrySeconds)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}

func unreadable(it *Item) error {
	return apierrors.NewInternalError(fmt.Errorf("the stored object %s cannot be read: %w", it.Key, it.broken))
}

// failed is the error of a conversion.
func failed(err error) error {
	if known := (*apierrors.StatusError)(nil); errors.As(err, &known) {
		return err
	}
	return apierrors.NewInternalError(err)
}

// parseRevision returns 0 for "" and "0".
func parseRevision(resourceVersion string) (int64, error) {
	if resourceVersion == "" || resourceVersion == "0" {
		return 0, nil
	}
	n, err := strconv.ParseUint(resourceVersion, 10, 63)
	if err != nil {
		return 0, apierrors.NewBadRequest("invalid resource version: " +
			field.Invalid(field.NewPath("resourceVersion"), resourceVersion, err.Error()).Error())
	}
	return int64(n), nil
}

func invalidOptions(errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
}
