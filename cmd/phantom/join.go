package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/crypto/invitation"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// tokenMax bounds what is read in search of a token, which is below 400 characters.
const tokenMax = 4 << 10

func (a *app) joinVerb() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "join TOKEN",
		Short: "up, and enrol with an invitation",
		Long: "Starts the node and enrols it with an invitation token. TOKEN may be - to read it from stdin, or file:/path:\n" +
			"on a shared machine arguments can be seen by others.",
		Args: oneArg,
	}
	flags := addSettings(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", upTimeout, "how long to wait until it is online")
	cmd.RunE = action(func(cmd *cobra.Command, args []string) error {
		text, err := a.readToken(args[0])
		if err != nil {
			return err
		}
		token, err := invitation.Parse(text)
		if err != nil {
			return localapi.Fail(localapi.Usage, "cannot join", err, "paste the whole token, from pm1 on, as phantom invite printed it")
		}
		// Blanks and line ends that a terminal put into it are gone in this form.
		if text, err = token.Text(); err != nil {
			return localapi.Fail(localapi.Usage, "cannot join", err, "ask for a new token: phantom invite")
		}
		return a.up(cmd.Context(), upRequest{
			entry: localapi.Entry{Token: text}, meshID: token.Mesh.String(), flags: flags.layer(), timeout: timeout})
	})
	return a.jsonFlag(cmd)
}

// readToken takes the token itself, - for stdin, or file:/path.
func (a *app) readToken(arg string) (string, error) {
	from, read := "", io.Reader(nil)
	if path, ok := strings.CutPrefix(arg, "file:"); ok {
		f, err := os.Open(path)
		if err != nil {
			return "", localapi.Fail(localapi.Usage, "cannot read the token", err, "")
		}
		defer f.Close()
		from, read = path, f
	} else if arg == "-" {
		from, read = "stdin", a.stdin
	} else {
		return strings.TrimSpace(arg), nil
	}
	b, err := io.ReadAll(io.LimitReader(read, tokenMax+1))
	if err == nil && len(b) > tokenMax {
		err = fmt.Errorf("more than %d bytes", tokenMax)
	}
	if err != nil {
		return "", localapi.Fail(localapi.Usage, "cannot read the token from "+from, err, "")
	}
	return strings.TrimSpace(string(b)), nil
}
