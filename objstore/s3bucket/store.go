// Package s3bucket keeps objects in a bucket of S3 or of a server that speaks its
// protocol. It is the one package that knows the AWS SDK.
//
// Where the bucket is says a URL: s3://BUCKET/PREFIX?endpoint=URL&region=REGION. What
// is not in it comes from where the SDK finds it: AWS_ENDPOINT_URL, AWS_REGION,
// AWS_ACCESS_KEY_ID and so on, its configuration files, the machine's role. With an
// endpoint, paths name the bucket (path style), since only Amazon has a host name for
// each.
//
// Conditional writes are If-Match and If-None-Match, so the server must know them:
// Amazon, versitygw, MinIO and most others do. The SDK tries a request several times;
// a conditional one whose first answer was lost is refused the second time
// (objstore.PutSmall looks).
package s3bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/wsmesh/wsmesh/mesh"
	"github.com/wsmesh/wsmesh/objstore"
)

// Bounds of a request. A pack of 8 MiB has a minute on the slowest line that makes
// sense; what takes longer is CodeUnavailable.
const (
	attempts   = 3
	dialTime   = 5 * time.Second
	answerTime = 20 * time.Second // until a server begins to answer
	baseTime   = 30 * time.Second // of a request with all its attempts
	slowest    = 256 << 10        // bytes each second
	partBytes  = 8 << 20          // of an object that is stored in parts
	maxParts   = 10_000           // as S3 has it
)

// Location is where objects are in S3.
type Location struct {
	Bucket, Prefix   string // the prefix is "" or ends with a slash
	Endpoint, Region string // "": as the SDK finds it
}

// ParseURL reads an s3:// URL; the error has CodeInvalid.
func ParseURL(s string) (Location, error) {
	wrong := func(why string) (Location, error) {
		return Location{}, mesh.Errorf(mesh.CodeInvalid, "%s: %s; write s3://BUCKET/PREFIX, and ?endpoint=URL&region=REGION behind it for a server that is not Amazon's", shown(s), why)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return wrong("it is no URL")
	case u.Scheme != "s3" || u.Host == "":
		return wrong("it names no bucket")
	case u.User != nil:
		return wrong("keys do not belong into it, but into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	l := Location{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	if l.Prefix != "" {
		l.Prefix += "/"
	}
	if len(l.Prefix) > objstore.MaxObjectName/2 {
		return wrong("the prefix is too long")
	}
	for name, values := range u.Query() {
		switch name {
		case "endpoint":
			l.Endpoint = values[0]
			if e, err := url.Parse(l.Endpoint); err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Host == "" || e.User != nil {
				return wrong("endpoint is no http or https URL")
			}
		case "region":
			l.Region = values[0]
		default:
			return wrong(fmt.Sprintf("it has no %q", name))
		}
	}
	return l, nil
}

// shown is a URL as an error may repeat it: one with an @ may hold keys, and the error
// may go to a log.
func shown(s string) string {
	if strings.Contains(s, "@") || strings.Contains(s, "%40") {
		return "the URL of the objects"
	}
	return fmt.Sprintf("%.200q", s)
}

// Store is the objects below a prefix of a bucket. Safe for concurrent use; it needs
// no Close.
type Store struct {
	at     Location
	client *s3.Client
	large  *transfermanager.Client
}

var _ objstore.Remote = (*Store)(nil)

// Open returns the store at a URL, see ParseURL. It finds the credentials, CodeDenied
// if there are none, and asks the server nothing: that may be down now.
func Open(ctx context.Context, s string) (*Store, error) {
	at, err := ParseURL(s)
	if err != nil {
		return nil, err
	}
	wire := awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTime }).
		WithTransportOptions(func(t *http.Transport) { t.ResponseHeaderTimeout = answerTime })
	cfg, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(wire), config.WithRetryMaxAttempts(attempts))
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeInvalid, "the configuration for S3: %s", err)
	}
	if at.Region != "" || cfg.Region == "" {
		cfg.Region = at.Region
		if cfg.Region == "" {
			cfg.Region = "us-east-1"
		}
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return nil, mesh.Errorf(mesh.CodeDenied, "no credentials for S3; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what else the AWS SDK looks for (%s)", err)
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		if at.Endpoint != "" {
			o.BaseEndpoint = &at.Endpoint
		}
		o.UsePathStyle = o.BaseEndpoint != nil
		// What is read is a range, which some servers send with the checksum of the whole
		// object; packs are checked by their names.
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	large := transfermanager.New(client, func(o *transfermanager.Options) {
		o.PartSizeBytes, o.MultipartUploadThreshold, o.Concurrency, o.FailTimeout = partBytes, partBytes, 2, baseTime
	})
	return &Store{at: at, client: client, large: large}, nil
}

func (s *Store) key(name string) *string { return aws.String(s.at.Prefix + name) }

// bounded ends a request that would take too long for its bytes.
func bounded(ctx context.Context, bytes int64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, baseTime+time.Duration(bytes/slowest)*time.Second)
}

// Put implements objstore.Remote. More than objstore.MaxSmall bytes take no condition,
// CodeTooLarge.
func (s *Store) Put(ctx context.Context, name string, body io.Reader, size int64, how objstore.PutOptions) (string, error) {
	bound, cancel := bounded(ctx, size)
	defer cancel()
	version, err := s.put(bound, name, body, size, how)
	return version, s.translate(ctx, "put "+name, err)
}

func (s *Store) put(ctx context.Context, name string, body io.Reader, size int64, how objstore.PutOptions) (string, error) {
	if size > objstore.MaxSmall {
		if how.If != nil {
			return "", mesh.Errorf(mesh.CodeTooLarge, "a condition on more than %d bytes", objstore.MaxSmall)
		}
		out, err := s.large.UploadObject(ctx, &transfermanager.UploadObjectInput{Bucket: &s.at.Bucket, Key: s.key(name), Body: &exact{r: body, rest: size}, Metadata: how.Meta}, func(o *transfermanager.Options) {
			o.PartSizeBytes = max(partBytes, size/maxParts+1)
		})
		if err != nil {
			return "", err
		}
		return aws.ToString(out.ETag), nil
	}
	again, ok := body.(*bytes.Reader) // what can be read again can be tried again
	if !ok || int64(again.Len()) != size {
		data := make([]byte, size)
		if _, err := io.ReadFull(&exact{r: body, rest: size}, data); err != nil && size > 0 {
			return "", err
		}
		again = bytes.NewReader(data)
	}
	in := &s3.PutObjectInput{Bucket: &s.at.Bucket, Key: s.key(name), Body: again, Metadata: how.Meta}
	switch {
	case how.If == nil:
	case *how.If == "":
		in.IfNoneMatch = aws.String("*")
	default:
		in.IfMatch = how.If
	}
	out, err := s.client.PutObject(ctx, in, summed(how.Sum))
	if how.If != nil && statusOf(err) == http.StatusNotFound && apiCode(err) != noSuchBucket {
		return "", mesh.Errorf(mesh.CodeConflict, "no object is there")
	}
	if err != nil {
		return "", err
	}
	return aws.ToString(out.ETag), nil
}

// summed has a request signed with the SHA-256 of its body that is known already, which
// the server checks. Over TLS the SDK signs none.
func summed(sum objstore.ID) func(*s3.Options) {
	known := middleware.FinalizeMiddlewareFunc("KnownPayloadHash", func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
		if r, ok := in.Request.(*smithyhttp.Request); ok && !r.IsHTTPS() {
			ctx = v4.SetPayloadHash(ctx, sum.String())
		}
		return next.HandleFinalize(ctx, in)
	})
	return func(o *s3.Options) {
		if !sum.IsZero() {
			o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
				return stack.Finalize.Insert(known, "ComputePayloadHash", middleware.Before)
			})
		}
	}
}

// exact fails where a content is shorter than it was said to be.
type exact struct {
	r    io.Reader
	rest int64
}

func (e *exact) Read(b []byte) (int, error) {
	if e.rest == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(b[:min(int64(len(b)), e.rest)])
	e.rest -= int64(n)
	if errors.Is(err, io.EOF) {
		if err = nil; e.rest > 0 {
			err = mesh.Errorf(mesh.CodeInvalid, "the content is %d bytes shorter than was said", e.rest)
		}
	}
	return n, err
}

// Get implements objstore.Remote.
func (s *Store) Get(ctx context.Context, name string, offset int64, n int) ([]byte, objstore.Object, error) {
	bound, cancel := bounded(ctx, int64(n))
	defer cancel()
	data, o, err := s.get(bound, name, offset, n)
	return data, o, s.translate(ctx, "get "+name, err)
}

func (s *Store) get(ctx context.Context, name string, offset int64, n int) ([]byte, objstore.Object, error) {
	o := objstore.Object{Name: name}
	span := fmt.Sprintf("bytes=%d-%d", offset, offset+int64(n)-1)
	if offset < 0 {
		span = fmt.Sprintf("bytes=%d", offset)
	}
	var out *s3.GetObjectOutput
	var err error
	if n > 0 {
		out, err = s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.at.Bucket, Key: s.key(name), Range: &span})
	}
	if n <= 0 || statusOf(err) == http.StatusRequestedRangeNotSatisfiable { // nothing of it is wanted, or there
		if o, err = s.stat(ctx, name); err != nil {
			return nil, o, err
		}
		from, to, err := objstore.Range(o.Size, offset, n)
		if offset < 0 && from < to { // not every server takes more than there is from the end
			return s.get(ctx, name, from, int(to-from))
		}
		return nil, o, err
	}
	if err != nil {
		return nil, o, err
	}
	defer out.Body.Close()
	data, err := io.ReadAll(io.LimitReader(out.Body, int64(n)))
	if err != nil {
		return nil, o, err
	}
	o.Meta, o.Size = out.Metadata, int64(len(data))
	if _, all, ok := strings.Cut(aws.ToString(out.ContentRange), "/"); ok {
		if _, err := fmt.Sscan(all, &o.Size); err != nil {
			return nil, o, mesh.Errorf(mesh.CodeInternal, "the server names the range %.80q", *out.ContentRange)
		}
	} else if offset > 0 {
		return nil, o, mesh.Errorf(mesh.CodeUnsupported, "the server does not know ranges")
	}
	if int64(len(data)) == o.Size {
		o.Version = aws.ToString(out.ETag)
	}
	if from, to, err := objstore.Range(o.Size, offset, n); err != nil || int64(len(data)) != to-from {
		return nil, o, mesh.Errorf(mesh.CodeUnavailable, "the server sent %d bytes for %d from %d on", len(data), n, offset)
	}
	return data, o, nil
}

// Stat implements objstore.Remote.
func (s *Store) Stat(ctx context.Context, name string) (objstore.Object, error) {
	bound, cancel := bounded(ctx, 0)
	defer cancel()
	o, err := s.stat(bound, name)
	return o, s.translate(ctx, "stat "+name, err)
}

func (s *Store) stat(ctx context.Context, name string) (objstore.Object, error) {
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.at.Bucket, Key: s.key(name)})
	if err != nil {
		return objstore.Object{Name: name}, err
	}
	return objstore.Object{Name: name, Size: aws.ToInt64(out.ContentLength), Version: aws.ToString(out.ETag), Meta: out.Metadata}, nil
}

// Delete implements objstore.Remote.
func (s *Store) Delete(ctx context.Context, name string) error {
	bound, cancel := bounded(ctx, 0)
	defer cancel()
	_, err := s.client.DeleteObject(bound, &s3.DeleteObjectInput{Bucket: &s.at.Bucket, Key: s.key(name)})
	if err = s.translate(ctx, "delete "+name, err); mesh.CodeOf(err) == mesh.CodeNotFound {
		return nil
	}
	return err
}

// List implements objstore.Remote.
func (s *Store) List(ctx context.Context, prefix, delimiter string) iter.Seq2[objstore.Object, error] {
	return func(yield func(objstore.Object, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.at.Bucket, Prefix: s.key(prefix)}
		if delimiter != "" {
			in.Delimiter = &delimiter
		}
		pages := s3.NewListObjectsV2Paginator(s.client, in)
		for pages.HasMorePages() {
			bound, cancel := bounded(ctx, 0)
			page, err := pages.NextPage(bound)
			cancel()
			if err != nil {
				yield(objstore.Object{}, s.translate(ctx, "list "+prefix, err))
				return
			}
			var all []objstore.Object
			for _, o := range page.Contents {
				all = append(all, objstore.Object{Name: aws.ToString(o.Key), Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)})
			}
			for _, p := range page.CommonPrefixes {
				all = append(all, objstore.Object{Name: aws.ToString(p.Prefix)})
			}
			slices.SortFunc(all, func(a, b objstore.Object) int { return strings.Compare(a.Name, b.Name) })
			for _, o := range all {
				name, ours := strings.CutPrefix(o.Name, s.at.Prefix)
				if o.Name = name; ours && name != "" && !yield(o, nil) {
					return
				}
			}
		}
	}
}

const noSuchBucket = "NoSuchBucket"

func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func statusOf(err error) int {
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// translate gives an error of the SDK one of our codes. ctx is the caller's.
func (s *Store) translate(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	var ours *mesh.Error
	if errors.As(err, &ours) {
		return fmt.Errorf("%s: %w", op, err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, ctx.Err())
	}
	text := err.Error()
	var api smithy.APIError
	if errors.As(err, &api) {
		text = strings.TrimSuffix(api.ErrorCode()+": "+api.ErrorMessage(), ": ")
	}
	code := mesh.CodeUnavailable
	switch apiCode(err) {
	case noSuchBucket:
		return fmt.Errorf("%s: %w", op, mesh.Errorf(mesh.CodeInvalid, "bucket %s does not exist; create it", s.at.Bucket))
	case "QuotaExceeded", "XMinioStorageFull", "InsufficientStorage":
		code = mesh.CodeQuota
	default:
		switch statusOf(err) {
		case http.StatusNotFound:
			code = mesh.CodeNotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			code = mesh.CodeDenied
		case http.StatusPreconditionFailed, http.StatusConflict:
			code = mesh.CodeConflict
		case http.StatusBadRequest:
			code = mesh.CodeInvalid
		case http.StatusInsufficientStorage:
			code = mesh.CodeQuota
		case http.StatusNotImplemented:
			code = mesh.CodeUnsupported
		}
	}
	return fmt.Errorf("%s: %w", op, mesh.Errorf(code, "%s", text))
}
