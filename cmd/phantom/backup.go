package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/phantommesh/phantommesh/api"
	"github.com/phantommesh/phantommesh/internal/localapi"
)

// scryptWork is the cost of one guess at a passphrase: 2^18 · 8 · 128 bytes = 256 MiB and about a second. A file that asks for more than
// scryptWorkMax, 4 GiB, is not read: it would keep the machine busy before the passphrase is even compared.
const (
	scryptWork    = 18
	scryptWorkMax = 22
)

// backupArgs are backup's flags.
type backupArgs struct {
	passphrase   string
	force, armor bool
}

func (a *app) backupVerb() *cobra.Command {
	var args backupArgs
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "keep what makes this machine a member, sealed with a passphrase",
		Long: "Writes this node's identity, its settings, the mesh's root key if it is here, and what the node knows of the mesh, sealed with a\n" +
			"passphrase, in the format of age. A coordinator keeps the whole ledger: make the backup on one, and on the machine that\n" +
			"founded the mesh. The node may run. Who has the file and its passphrase can be this machine: keep them apart, and off this machine.",
		Args: oneArg,
		RunE: action(func(cmd *cobra.Command, words []string) error { return a.backup(cmd, words[0], args) }),
	}
	cmd.Flags().StringVar(&args.passphrase, "passphrase-file", "", "read the passphrase from the first line of this `FILE`; - is the standard input")
	cmd.Flags().BoolVar(&args.force, "force", false, "replace FILE if it is there")
	cmd.Flags().BoolVar(&args.armor, "armor", false, "write text (PEM) instead of bytes")
	return a.jsonFlag(cmd)
}

func (a *app) backup(cmd *cobra.Command, file string, args backupArgs) error {
	const what = "cannot write the backup"
	if _, err := os.Lstat(file); err == nil && !args.force {
		return localapi.Fail(localapi.Failed, what, fmt.Errorf("%s is there already", file), "name another file, or replace it with --force")
	}
	settings, err := a.clientSettings()
	if err != nil {
		return err
	}
	snapshot, err := nodeSnapshot(cmd, settings.State, api.NewClient(settings.Socket()))
	if err != nil {
		return err
	}
	var plain bytes.Buffer
	b, err := packBackup(settings.State, snapshot, buildVersion().Version, &plain)
	if err != nil {
		return localapi.Fail(localapi.Failed, what, err, readAs(err))
	}
	secret, err := a.passphrase(args.passphrase, true)
	if err != nil {
		return err
	}
	if err := writeSealed(file, &plain, secret, args); err != nil {
		return localapi.Fail(localapi.Failed, what, err, "nothing was kept in "+file+"; check the space and the permissions there")
	}
	if a.json {
		return a.printJSON(b)
	}
	a.tellBackup(file, b)
	return nil
}

// nodeSnapshot asks the running node, or reads the folder of one that is stopped.
func nodeSnapshot(cmd *cobra.Command, state string, c *api.Client) ([]byte, error) {
	var out bytes.Buffer
	err := c.Snapshot(cmd.Context(), &out)
	var f *localapi.Failure
	if errors.As(err, &f) && f.Class == localapi.NotRunning {
		out.Reset()
		err = folderSnapshot(state, &out)
	}
	return out.Bytes(), err
}

func readAs(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "run the command as the user who owns the state folder, or as root"
	}
	return ""
}

// writeSealed encrypts into a new file that appears, private and whole, by one rename.
func writeSealed(file string, plain io.Reader, secret string, args backupArgs) (err error) {
	recipient, err := age.NewScryptRecipient(secret)
	if err != nil {
		return err
	}
	recipient.SetWorkFactor(scryptWork)
	t, err := renameio.NewPendingFile(file, renameio.WithPermissions(0o600), renameio.WithTempDir(filepath.Dir(file)))
	if err != nil {
		return err
	}
	defer t.Cleanup()
	var to io.Writer = t
	end := func() error { return nil }
	if args.armor {
		w := armor.NewWriter(t)
		to, end = w, w.Close
	}
	sealed, err := age.Encrypt(to, recipient)
	if err != nil {
		return err
	}
	if _, err := io.Copy(sealed, plain); err != nil {
		return err
	}
	if err := errors.Join(sealed.Close(), end()); err != nil {
		return err
	}
	return t.CloseAtomicallyReplace()
}

func (a *app) tellBackup(file string, b *api.Backup) {
	fmt.Fprintf(a.stdout, "%s keeps %s of the mesh %s: its identity, its settings", printable(file), printable(b.Node), printable(b.Mesh))
	if b.RootKey {
		fmt.Fprint(a.stdout, ", the mesh's root key")
	}
	if b.Holds == localapi.BackupLedger {
		fmt.Fprintf(a.stdout, " and the whole ledger (version %d)\n", b.StateVersion)
	} else {
		fmt.Fprintf(a.stdout, " and the signed state (version %d)\n", b.StateVersion)
		fmt.Fprintln(a.stdout, "this node is no coordinator: invitations, the audit log and older policies are not in it")
	}
	fmt.Fprintln(a.stdout, "next: keep it and its passphrase apart, and not on this machine; phantom restore brings it back")
}

func (a *app) restoreVerb() *cobra.Command {
	var passphrase string
	var how restoreHow
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "bring back what phantom backup kept, into an empty state folder",
		Long: "Makes the state folder out of a backup; phantom up then starts the node. It comes back as a member and learns from the others what\n" +
			"was decided since; if it was a coordinator, the mesh takes its old vote away first and gives it a new one.\n" +
			"When every coordinator is lost for good, restore one of them with --as-only-coordinator: it decides alone until others\n" +
			"coordinate again, and decisions that are newer than the backup are lost. Never do that while others still coordinate.",
		Args: oneArg,
		RunE: action(func(_ *cobra.Command, words []string) error {
			if how.asOnlyCoordinator && how.asMember {
				return wrongUsage("--as-only-coordinator and --as-member contradict each other")
			}
			return a.restore(words[0], passphrase, how)
		}),
	}
	cmd.Flags().StringVar(&passphrase, "passphrase-file", "", "read the passphrase from the first line of this `FILE`; - is the standard input")
	cmd.Flags().BoolVar(&how.asOnlyCoordinator, "as-only-coordinator", false, "every coordinator is lost: decide alone on this machine")
	cmd.Flags().BoolVar(&how.asMember, "as-member", false, "others coordinate although this machine was the only one")
	return a.jsonFlag(cmd)
}

// restoreHow says as what a machine comes back.
type restoreHow struct{ asOnlyCoordinator, asMember bool }

func (a *app) restore(file, passphrase string, how restoreHow) error {
	const what = "cannot restore"
	settings, err := a.clientSettings()
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return localapi.Fail(localapi.Failed, what, err, "")
	}
	defer f.Close()
	if err := checkEmpty(settings.State); err != nil {
		return err
	}
	secret, err := a.passphrase(passphrase, false)
	if err != nil {
		return err
	}
	plain, err := openSealed(f, secret)
	if err != nil {
		return sealedFailure(file, err)
	}
	syscall.Umask(0o077) // as for a node: raft's snapshots are written by its library
	if err := prepareState(settings.State); err != nil {
		return err
	}
	r, err := restoreBackup(settings.State, plain, how)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	fmt.Fprintf(a.stdout, "%s of the mesh %s is back, as of %s\n", printable(r.Node), printable(r.Mesh), minute(r.Made))
	if r.Role == localapi.RestoredCoordinator {
		fmt.Fprintln(a.stdout, "it decides alone until others coordinate again; what was decided after the backup is lost")
	}
	next := "phantom up"
	if a.state.given {
		next += " --state " + settings.State
	}
	fmt.Fprintln(a.stdout, "next: "+next)
	return nil
}

// checkEmpty refuses a folder with a membership before anybody types a passphrase; node.Restore decides.
func checkEmpty(state string) error {
	if _, err := os.Stat(filepath.Join(state, "mesh")); err != nil {
		return nil
	}
	return localapi.Fail(localapi.Failed, "cannot restore", fmt.Errorf("the state folder %s belongs to a member already", state),
		"stop its node (phantom down) and move the folder away, or restore into another one with --state DIR")
}

// sealedHeaderMax bounds what is read of a file before it is known to be sealed: age's header has some 200 bytes for a passphrase, and a line of its
// armor 64. The library reads lines without a bound, and somebody may name a disk image.
const sealedHeaderMax = 16 << 10

func openSealed(from io.Reader, secret string) (io.Reader, error) {
	who, err := age.NewScryptIdentity(secret)
	if err != nil {
		return nil, err
	}
	who.SetMaxWorkFactor(scryptWorkMax)
	r := bufio.NewReaderSize(from, sealedHeaderMax)
	if start, _ := r.Peek(len(armor.Header)); strings.HasPrefix(string(start), armor.Header) {
		r = bufio.NewReaderSize(armor.NewReader(&shortLines{from: r}), sealedHeaderMax)
	}
	head, err := r.Peek(sealedHeaderMax)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte("age-encryption.org/")) {
		return nil, errors.New("it does not begin like an age file")
	}
	if end := bytes.Index(head, []byte("\n--- ")); end < 0 || !bytes.ContainsRune(head[end+1:], '\n') {
		return nil, errors.New("its header has no end")
	}
	return age.Decrypt(r, who)
}

// shortLines refuses a text with a line that no armor has.
type shortLines struct {
	from io.Reader
	line int // bytes since the last newline
}

// Read implements io.Reader.
func (l *shortLines) Read(b []byte) (int, error) {
	n, err := l.from.Read(b)
	for _, c := range b[:n] {
		if l.line++; c == '\n' {
			l.line = 0
		}
		if l.line > sealedHeaderMax {
			return 0, errors.New("a line has no end")
		}
	}
	return n, err
}

func sealedFailure(file string, err error) error {
	var wrong *age.NoIdentityMatchError
	if errors.As(err, &wrong) {
		return localapi.Fail(localapi.Failed, "cannot open "+file, errors.New("the passphrase is wrong, or the file was not sealed with one"), "try it again")
	}
	return localapi.Fail(localapi.Failed, "cannot open "+file, fmt.Errorf("it is no backup, or damaged (%w)", err), "take another copy of it")
}
