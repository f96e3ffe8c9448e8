package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/internal/localapi"
)

// metric is one sample of phantom metrics --json.
type metric struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	Value  float64           `json:"value"`
}

type metricList struct {
	Metrics localapi.List[metric] `json:"metrics"`
}

func (a *app) metricsVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "metrics [TEXT]",
		Short: "the counters of the running node, as Prometheus reads them",
		Long: "Prints what the node counts and measures, in the text form of Prometheus; with TEXT only what has it in its name. What was refused,\n" +
			"dropped or limited is in phantom_packets_dropped_total, phantom_lan_beacons_total and others that end in refused_total, how full queues\n" +
			"and tables are in phantom_held. --metrics ADDR of phantom up serves the same over HTTP.",
		Args: cobra.MaximumNArgs(1),
		RunE: action(func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			var text bytes.Buffer
			if err := c.Metrics(cmd.Context(), &text); err != nil {
				return err
			}
			wanted := strings.Join(args, "")
			if a.json {
				l, err := readMetrics(&text, wanted)
				if err != nil {
					return localapi.Fail(localapi.Failed, "cannot read the node's metrics", err, "is the command of another version than the node? see phantom version")
				}
				return a.printJSON(l)
			}
			for line := range strings.Lines(text.String()) {
				name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), " ")
				name, _, _ = strings.Cut(name, "{")
				if strings.Contains(name, wanted) {
					fmt.Fprint(a.stdout, line)
				}
			}
			return nil
		}),
	}
	return a.jsonFlag(cmd)
}

// readMetrics reads the samples whose names have a text in them. What is no number in JSON, the last bound of a histogram excepted, which is a label,
// is left out.
func readMetrics(from io.Reader, wanted string) (*metricList, error) {
	out := &metricList{Metrics: localapi.List[metric]{}}
	samples := expfmt.SampleDecoder{Dec: expfmt.NewDecoder(from, expfmt.NewFormat(expfmt.TypeTextPlain)), Opts: &expfmt.DecodeOptions{}}
	for {
		var v model.Vector
		err := samples.Decode(&v)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for _, s := range v {
			name, value := string(s.Metric[model.MetricNameLabel]), float64(s.Value)
			if !strings.Contains(name, wanted) || math.IsNaN(value) || math.IsInf(value, 0) {
				continue
			}
			m := metric{Name: name, Labels: map[string]string{}, Value: value}
			for k, l := range s.Metric {
				if k != model.MetricNameLabel {
					m.Labels[string(k)] = string(l)
				}
			}
			out.Metrics = append(out.Metrics, m)
		}
	}
}
