//! The services behind real TLS over loopback: who gets in, and what the others are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_planner::NodeDocument;
use dynamicswap_proto::SESSION_PROTOCOL;
use dynamicswap_proto::control::v1::agent_message::Kind;
use dynamicswap_proto::control::v1::agent_session_client::AgentSessionClient;
use dynamicswap_proto::control::v1::enrollment_client::EnrollmentClient;
use dynamicswap_proto::control::v1::operator_client::OperatorClient;
use dynamicswap_proto::control::v1::{
    AdmitRequest, AgentMessage, ClusterStatus, DesiredDocument, EnrollRequest, Hello, StatusRequest,
};
use dynamicswap_proto::identity::{AUDIENCE, AUTHORIZATION, CONTROLLER_NAME, Named, Right, bearer};
use dynamicswap_types::{Generation, Term};
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Streaming};

use super::token::NODE_OF_POD;
use super::*;
use crate::clock::unix_s;
use crate::limits::CERTIFICATE_LIFE_S;
use crate::owner::{Event, Outgoing};
use crate::tls::{Authority, Credentials, Serving};

const AGENT: &str = "system:serviceaccount:dynamicswap-system:dynamicswap-agent";
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Knows tokens of the form USER NODE AUDIENCE; looking is allowed to `viewer`, all to `admin`.
struct Fake;

#[tonic::async_trait]
impl Reviewer for Fake {
    async fn review(&self, token: &str) -> Result<Reviewed, Status> {
        let mut words = token.split(' ').map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        let (user, node, audience) = (next(), next(), next());
        Ok(Reviewed {
            authenticated: user != "stranger",
            audiences: vec![audience],
            user,
            extra: BTreeMap::from([(NODE_OF_POD.to_owned(), vec![node])]),
            ..Reviewed::default()
        })
    }

    async fn may(&self, who: &Reviewed, right: Right) -> Result<bool, Status> {
        Ok(who.user == "admin" || who.user == "viewer" && right == Right::Look)
    }

    fn agent_user(&self) -> &str {
        AGENT
    }
}

/// A controller's door, and what comes in through it.
struct House {
    authority: Arc<Authority>,
    address: String,
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl House {
    async fn open() -> Self {
        // Old enough to have signed what has run out.
        let made = unix_s() - 3 * CERTIFICATE_LIFE_S;
        let authority = Arc::new(Authority::make(made).expect("made"));
        let (issued, key) = authority.serve(unix_s()).expect("signed");
        let credentials = Credentials {
            chain: issued.chain,
            key,
            trusted: authority.certificates().to_vec(),
        };
        let (_, serving) = watch::channel(Serving {
            config: credentials.into_config().expect("sound"),
            signer: Some(Arc::clone(&authority)),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (sender, events) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let lock = Lock::Tls {
            serving,
            reviewer: Some(Arc::new(Fake)),
        };
        drop(serve(listener, lock, &sender, &stop));
        Self {
            authority,
            address,
            events,
            stop,
        }
    }

    /// A certificate of this house's authority, made at some time.
    fn certificate(&self, named: &Named, at: u64) -> Identity {
        let (key, request) = request();
        let issued = self.authority.sign(&request, named, at).expect("signed");
        Identity::from_pem(issued.chain_pem, key.serialize_pem())
    }

    async fn connect(
        &self,
        identity: Option<Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let authority = Certificate::from_pem(self.authority.certificate_pem());
        let tls = ClientTlsConfig::new().domain_name(CONTROLLER_NAME);
        let mut tls = tls.ca_certificate(authority);
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address));
        endpoint
            .expect("an address")
            .tls_config(tls)?
            .connect()
            .await
    }

    /// Opens a session as `node`.
    async fn session(
        &self,
        identity: Option<Identity>,
        node: &str,
    ) -> anyhow::Result<(mpsc::Sender<AgentMessage>, Streaming<DesiredDocument>)> {
        let channel = self.connect(identity).await?;
        let (up, messages) = mpsc::channel(4);
        let hello = Hello {
            node: node.to_owned(),
            failure_domain: node.to_owned(),
            protocol: SESSION_PROTOCOL,
            borrower: true,
            ..Hello::default()
        };
        let kind = Some(Kind::Hello(hello));
        up.send(AgentMessage { kind }).await?;
        let mut client = AgentSessionClient::new(channel);
        let answer = client.open(ReceiverStream::new(messages)).await?;
        Ok((up, answer.into_inner()))
    }

    /// How a session that is not let in is refused, and for which node the owner is told of it.
    async fn refused(&mut self, identity: Option<Identity>, node: &str) -> Status {
        let (_up, mut down) = self.session(identity, node).await.expect("a stream");
        let status = down.message().await.expect_err("refused");
        match self.events.recv().await {
            Some(Event::Refused { node: told, .. }) => assert_eq!(told.as_str(), node),
            other => panic!("{other:?}"),
        }
        status
    }

    async fn enroll(&self, token: &str) -> Result<(Identity, String), Status> {
        let channel = self.connect(None).await.expect("connected");
        let (key, request_der) = request();
        let mut request = Request::new(EnrollRequest { request_der });
        let token = bearer(token).parse().expect("ASCII");
        request.metadata_mut().insert(AUTHORIZATION, token);
        let answer = EnrollmentClient::new(channel).enroll(request).await?;
        let answer = answer.into_inner();
        let identity = Identity::from_pem(answer.certificates_pem, key.serialize_pem());
        Ok((identity, answer.node))
    }

    /// Answers the next call for the status.
    async fn answer_status(&mut self) {
        match self.events.recv().await {
            Some(Event::Status { reply, .. }) => {
                reply.send(ClusterStatus::default()).expect("wanted");
            }
            other => panic!("{other:?}"),
        }
    }
}

fn request() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().expect("a key");
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.expect("a request").der().to_vec();
    (key, request)
}

fn node(name: &str) -> Named {
    Named::Node(name.parse().expect("a name"))
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let token = bearer(token).parse().expect("ASCII");
    request.metadata_mut().insert(AUTHORIZATION, token);
    request
}

#[tokio::test]
async fn agent_with_its_node_s_certificate_has_a_session() {
    let mut house = House::open().await;
    let own = house.certificate(&node("a"), unix_s());
    let (_up, mut down) = house.session(Some(own), "a").await.expect("let in");
    let Some(Event::Open { hello, outbox, .. }) = house.events.recv().await else {
        panic!("a session");
    };
    assert_eq!(hello.node.as_str(), "a");
    let document = NodeDocument {
        generation: Generation::new(7),
        swap_device: None,
        memory_server: None,
        policies: Vec::new(),
    };
    outbox.send_replace(Outgoing::Document(Arc::new(document), Term::new(3)));
    let got = down.message().await.expect("open").expect("a document");
    assert_eq!((got.generation, got.term), (7, 3));
}

#[tokio::test]
async fn stolen_node_name_is_refused_and_told() {
    let mut house = House::open().await;
    let other = house.certificate(&node("a"), unix_s());
    let status = house.refused(Some(other), "b").await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("names node a"), "{status}");
    assert!(status.message().contains("its own node alone"), "{status}");
}

#[tokio::test]
async fn session_without_a_certificate_is_refused() {
    let mut house = House::open().await;
    let status = house.refused(None, "a").await;
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("--enroll-token"), "{status}");
}

#[tokio::test]
async fn certificate_that_has_run_out_is_refused_in_the_handshake() {
    let house = House::open().await;
    let old = house.certificate(&node("a"), unix_s() - CERTIFICATE_LIFE_S - 60);
    let error = house.session(Some(old), "a").await.expect_err("refused");
    // What an agent knows it by, to enroll again.
    let said = format!("{error:#} {error:?}");
    assert!(said.contains("fatal alert"), "{said}");
}

#[tokio::test]
async fn certificate_of_a_foreign_authority_is_refused_in_the_handshake() {
    let house = House::open().await;
    let foreign = House::open().await.certificate(&node("a"), unix_s());
    let error = house.session(Some(foreign), "a").await;
    let error = error.expect_err("refused");
    let said = format!("{error:#} {error:?}");
    assert!(said.contains("fatal alert"), "{said}");
}

#[tokio::test]
async fn session_ends_with_its_certificate() {
    let mut house = House::open().await;
    let short = house.certificate(&node("a"), unix_s() - CERTIFICATE_LIFE_S + 4);
    let (_up, mut down) = house.session(Some(short), "a").await.expect("let in");
    let opened = house.events.recv().await;
    assert!(matches!(opened, Some(Event::Open { .. })));
    let ended = tokio::time::timeout(PATIENCE, down.message()).await;
    let status = ended.expect("in time").expect_err("ended");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("has run out"), "{status}");
}

#[tokio::test]
async fn token_brings_a_certificate_of_the_pod_s_node_and_of_no_other() {
    let mut house = House::open().await;
    let token = format!("{AGENT} a {AUDIENCE}");
    let (own, name) = house.enroll(&token).await.expect("enrolled");
    assert_eq!(name, "a");
    let status = house.refused(Some(own.clone()), "b").await;
    assert_eq!(status.code(), Code::PermissionDenied);
    house.session(Some(own), "a").await.expect("let in");
    assert!(matches!(
        house.events.recv().await,
        Some(Event::Open { .. })
    ));
}

#[tokio::test]
async fn token_that_proves_nothing_brings_no_certificate() {
    let house = House::open().await;
    for (token, code, part) in [
        (
            format!("{AGENT} a https://kubernetes.default.svc"),
            Code::Unauthenticated,
            "for another audience",
        ),
        (
            format!("stranger a {AUDIENCE}"),
            Code::Unauthenticated,
            "does not know it",
        ),
        (
            format!("system:serviceaccount:shop:web a {AUDIENCE}"),
            Code::PermissionDenied,
            "is no agent",
        ),
        (
            format!("{AGENT} NO_NODE {AUDIENCE}"),
            Code::PermissionDenied,
            "no usable name",
        ),
    ] {
        let status = house.enroll(&token).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
}

#[tokio::test]
async fn operators_are_let_in_by_their_tokens_and_rights() {
    let mut house = House::open().await;
    let channel = house.connect(None).await.expect("connected");
    let mut operator = OperatorClient::new(channel);
    let nobody = operator.status(StatusRequest::default()).await;
    let nobody = nobody.expect_err("nobody");
    assert_eq!(nobody.code(), Code::Unauthenticated);
    assert!(nobody.message().contains("kubectl create token"));

    let viewer = format!("viewer - {AUDIENCE}");
    let request = with_token(StatusRequest::default(), &viewer);
    let (answer, ()) = tokio::join!(operator.status(request), house.answer_status());
    answer.expect("may look");
    let request = with_token(AdmitRequest::default(), &viewer);
    let refused = operator.admit(request).await.expect_err("may not order");
    assert_eq!(refused.code(), Code::PermissionDenied);
    for part in ["viewer may not update operations", "dynamicswap-operator"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    let elsewhere = with_token(StatusRequest::default(), "admin - another");
    let refused = operator.status(elsewhere).await.expect_err("not for us");
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn agent_s_certificate_opens_nothing_but_its_session_and_an_operator_s_opens_the_rest() {
    let mut house = House::open().await;
    let agent = house.certificate(&node("a"), unix_s());
    let channel = house.connect(Some(agent)).await.expect("connected");
    let token = format!("admin - {AUDIENCE}");
    let request = with_token(StatusRequest::default(), &token);
    let refused = OperatorClient::new(channel).status(request).await;
    assert_eq!(
        refused.expect_err("an agent").code(),
        Code::PermissionDenied
    );

    let operator = house.certificate(&Named::Operator, unix_s());
    let channel = house.connect(Some(operator)).await.expect("connected");
    let mut operator = OperatorClient::new(channel);
    let status = operator.status(StatusRequest::default());
    let (answer, ()) = tokio::join!(status, house.answer_status());
    answer.expect("may look");
}

#[tokio::test]
async fn peer_that_speaks_no_tls_holds_up_nobody() {
    let mut house = House::open().await;
    let _silent = tokio::net::TcpStream::connect(&house.address).await;
    let plain = AgentSessionClient::connect(format!("http://{}", house.address)).await;
    if let Ok(mut plain) = plain {
        let (_up, messages) = mpsc::channel(1);
        assert!(plain.open(ReceiverStream::new(messages)).await.is_err());
    }
    let own = house.certificate(&node("a"), unix_s());
    house.session(Some(own), "a").await.expect("let in");
    assert!(matches!(
        house.events.recv().await,
        Some(Event::Open { .. })
    ));
}
