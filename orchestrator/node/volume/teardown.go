package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"
)

// Teardown unmounts all volumes of a pod and removes what was made for them; files of the node and of persistent volumes
// stay. It needs to know nothing of the pod but what is on disk, and may be called again after it failed. It waits for a
// Setup of the same pod that is under way, whose context should be ended.
func (v *Volumes) Teardown(ctx context.Context, uid types.UID) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	v.mu.Lock()
	p := v.pods[uid]
	v.mu.Unlock()
	if p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.gone = true
	}
	v.sources.release(uid)
	dir := v.podDir(uid)
	// subPaths first: they hold what they lie in
	for _, sub := range []string{"volume-subpaths", "volumes"} {
		if err := unmountBelow(filepath.Join(dir, sub)); err != nil {
			return err
		}
	}
	if err := v.claims.releaseAll(ctx, uid); err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	for _, sub := range []string{"volume-subpaths", "volumes"} {
		if err := removeTree(filepath.Join(dir, sub)); err != nil {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		if left, _ := os.ReadDir(dir); len(left) == 0 { // others keep files there too
			return fmt.Errorf("volume: %w", err)
		}
	}
	v.mu.Lock()
	delete(v.pods, uid)
	delete(v.dirty, uid)
	v.mu.Unlock()
	return nil
}

// Remove is Teardown, and removes the pod's directory with all that others have put there.
func (v *Volumes) Remove(ctx context.Context, uid types.UID) error {
	if err := v.Teardown(ctx, uid); err != nil {
		return err
	}
	if err := unmountBelow(v.podDir(uid)); err != nil {
		return err
	}
	return removeTree(v.podDir(uid))
}

// checkUID refuses names that would lead elsewhere.
func checkUID(uid types.UID) error {
	if s := string(uid); s == "" || s == "." || s == ".." || filepath.Base(s) != s {
		return fmt.Errorf("volume: %q is no uid of a pod", uid)
	}
	return nil
}

// CleanOrphans removes what pods have left that the node no longer has, as after a crash: all but known. A pod has to be known
// before it is set up.
func (v *Volumes) CleanOrphans(ctx context.Context, known func(types.UID) bool) error {
	entries, err := os.ReadDir(v.cfg.Dir)
	if err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if uid := types.UID(e.Name()); e.IsDir() && !known(uid) {
			errs = append(errs, v.Remove(ctx, uid))
		}
	}
	errs = append(errs, v.claims.orphans(ctx))
	return errors.Join(errs...)
}
