package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/node/eviction"
)

// pressureFlags are the flags that say what a node does when it runs out of something, as the kubelet has them. They are read by
// the function that is returned.
func pressureFlags(fs *pflag.FlagSet, p *cluster.Pressure) (read func() error) {
	hard := fs.StringSlice("eviction-hard", written(eviction.Defaults()), "Below how much of a signal pods are evicted at once: signal<quantity or percentage. An empty value: never.")
	soft := fs.StringSlice("eviction-soft", nil, "Below how much of a signal pods are evicted when that lasts for its grace period: signal<quantity or percentage.")
	fs.StringToStringVar(&p.Eviction.SoftGrace, "eviction-soft-grace-period", nil, "For how long soft thresholds have to be met: signal=duration.")
	fs.StringToStringVar(&p.Eviction.MinReclaim, "eviction-minimum-reclaim", nil, "How much more is freed than thresholds say: signal=quantity or percentage.")
	grace := fs.Int("eviction-max-pod-grace-period", 0, "Greatest grace period, in seconds, of pods that are evicted for a soft threshold.")
	fs.DurationVar(&p.Transition, "eviction-pressure-transition-period", 5*time.Minute, "For how long a node is under pressure after that was seen.")
	fs.IntVar(&p.Images.High, "image-gc-high-threshold", 85, "Percentage of the images' file system from which on unused images are removed; 100: never.")
	fs.IntVar(&p.Images.Low, "image-gc-low-threshold", 80, "Percentage of the images' file system down to which unused images are removed.")
	fs.DurationVar(&p.Images.MinAge, "minimum-image-ttl-duration", 2*time.Minute, "For how long an unused image stays at least.")
	fs.DurationVar(&p.Images.MaxAge, "maximum-image-ttl-duration", 0, "For how long an unused image stays at most; 0: for ever.")
	system := fs.StringToString("system-reserved", nil, "What pods do not get of the machine, as its system needs it: cpu, memory or ephemeral-storage=quantity.")
	kube := fs.StringToString("kube-reserved", nil, "What pods do not get of the machine, as the node itself needs it, on top of that.")
	return func() (err error) {
		if p.Reserved, err = parseReserved(*system, *kube); err != nil {
			return err
		}
		p.MaxGrace = time.Duration(*grace) * time.Second
		if p.Images.Low >= p.Images.High && p.Images.High < 100 {
			return errors.New("--image-gc-low-threshold has to be below --image-gc-high-threshold")
		}
		if p.Eviction.Hard, err = parseThresholds(*hard); err != nil {
			return err
		}
		if p.Eviction.Soft, err = parseThresholds(*soft); err != nil {
			return err
		}
		_, err = eviction.Thresholds(p.Eviction)
		return err
	}
}

// parseReserved adds up what is reserved.
func parseReserved(all ...map[string]string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for _, texts := range all {
		for text, amount := range texts {
			name := corev1.ResourceName(text)
			if !slices.Contains([]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}, name) {
				return nil, fmt.Errorf("%q cannot be reserved: only cpu, memory and ephemeral-storage can", text)
			}
			q, err := resource.ParseQuantity(amount)
			if err != nil || q.Sign() < 0 {
				return nil, fmt.Errorf("%q of %s cannot be reserved", amount, text)
			}
			sum := out[name]
			sum.Add(q)
			out[name] = sum
		}
	}
	return out, nil
}

// written are thresholds as a flag takes them.
func written(of map[string]string) (out []string) {
	for _, signal := range slices.Sorted(maps.Keys(of)) {
		out = append(out, signal+"<"+of[signal])
	}
	return out
}

// parseThresholds reads signal<amount.
func parseThresholds(texts []string) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range texts {
		if strings.TrimSpace(text) == "" {
			continue
		}
		signal, amount, ok := strings.Cut(text, "<")
		if !ok {
			return nil, fmt.Errorf("eviction threshold %q is not signal<amount", text)
		}
		out[strings.TrimSpace(signal)] = strings.TrimSpace(amount)
	}
	return out, nil
}
