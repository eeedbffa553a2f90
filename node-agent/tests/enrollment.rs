//! The agent's session over real TLS: it enrolls, waits for what is not there yet, renews, and
//! enrolls again when its certificate is not taken.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamicswap_agent::credentials::{Credentials, Wallet};
use dynamicswap_agent::session::{Session, SessionEvent};
use dynamicswap_proto::control::v1::agent_session_server::{AgentSession, AgentSessionServer};
use dynamicswap_proto::control::v1::enrollment_server::{Enrollment, EnrollmentServer};
use dynamicswap_proto::control::v1::{
    AgentMessage, DesiredDocument, EnrollRequest, EnrollResponse, Hello,
};
use dynamicswap_proto::identity::{AUTHORIZATION, CONTROLLER_NAME, Named, bearer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType, date_time_ymd,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

type Issuer = CertifiedIssuer<'static, KeyPair>;
type Down = ReceiverStream<Result<DesiredDocument, Status>>;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the controller behaves.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// Lives that it says certificates have, in their order; the last one for all others.
    lives: &'static [u64],
    /// The first certificate is one of long ago, whatever it says.
    first_is_old: bool,
    /// The first session is turned away as one of nobody.
    turns_away: bool,
}

const USUAL: Manner = Manner {
    lives: &[3_600],
    first_is_old: false,
    turns_away: false,
};

/// A controller of a few lines.
#[derive(Clone)]
struct Controller {
    issuer: Arc<Issuer>,
    manner: Manner,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    tokens: Vec<String>,
    /// The certificate that each session has shown.
    sessions: Vec<Vec<u8>>,
    open: Vec<mpsc::Sender<Result<DesiredDocument, Status>>>,
}

#[tonic::async_trait]
impl Enrollment for Controller {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let token = request.metadata().get(AUTHORIZATION).expect("a token");
        let token = token.to_str().expect("text").to_owned();
        let asked = request.into_inner().request_der;
        let mut heard = self.heard.lock().expect("not poisoned");
        let number = heard.tokens.len();
        heard.tokens.push(token);
        let mut asked = CertificateSigningRequestParams::from_der(&asked.into()).expect("sound");
        asked.params = CertificateParams::default();
        let name = Named::Node("n1".parse().expect("a name")).uri();
        asked.params.subject_alt_names = vec![SanType::URI(name.try_into().expect("a URI"))];
        asked.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if self.manner.first_is_old && number == 0 {
            asked.params.not_after = date_time_ymd(2001, 1, 1);
        }
        let signed = asked.signed_by(&self.issuer).expect("signed");
        let lives = self.manner.lives;
        Ok(Response::new(EnrollResponse {
            certificates_pem: signed.pem(),
            valid_for_s: lives[number.min(lives.len() - 1)],
            node: "n1".to_owned(),
        }))
    }
}

#[tonic::async_trait]
impl AgentSession for Controller {
    type OpenStream = Down;

    async fn open(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let shown = request.peer_certs().expect("a certificate");
        let mut heard = self.heard.lock().expect("not poisoned");
        heard.sessions.push(shown[0].to_vec());
        if self.manner.turns_away && heard.sessions.len() == 1 {
            return Err(Status::unauthenticated("whose certificate is that?"));
        }
        let (down, documents) = mpsc::channel(1);
        heard.open.push(down);
        Ok(Response::new(ReceiverStream::new(documents)))
    }
}

/// The controller, and the agent's side of things.
struct World {
    controller: Controller,
    folder: tempfile::TempDir,
    session: Session,
}

fn issuer() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("an authority")
}

impl World {
    async fn new(manner: Manner) -> Self {
        let issuer = issuer();
        let key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(vec![CONTROLLER_NAME.to_owned()]).expect("a name");
        let own = own.signed_by(&key, &issuer).expect("signed");
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(own.pem(), key.serialize_pem()))
            .client_ca_root(Certificate::from_pem(issuer.pem()))
            .client_auth_optional(true);
        let controller = Controller {
            issuer: Arc::new(issuer),
            manner,
            heard: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = Server::builder()
            .tls_config(tls)
            .expect("sound")
            .add_service(EnrollmentServer::new(controller.clone()))
            .add_service(AgentSessionServer::new(controller.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = Credentials::Enrolled {
            authorities: folder.path().join("ca.crt"),
            token: folder.path().join("token"),
        };
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address");
        let wallet = Wallet::new(credentials, "n1".parse().expect("a name"));
        Self {
            controller,
            folder,
            session: Session::new(endpoint, wallet),
        }
    }

    /// One in which everything is there.
    async fn whole(manner: Manner) -> Self {
        let world = Self::new(manner).await;
        world.write("ca.crt", &world.controller.issuer.pem());
        world.write("token", "secret\n");
        world
    }

    fn write(&self, name: &str, text: &str) {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::write(path, text).expect("written");
    }

    /// The next event but the ends of pauses, on which it connects.
    async fn next(&mut self) -> SessionEvent {
        let far = Instant::now() + PATIENCE * 2;
        let next = async {
            loop {
                match self.session.next(far).await {
                    SessionEvent::PauseOver => self.session.connect(Hello::default()),
                    other => return other,
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("in time")
    }

    async fn opened(&mut self) {
        match self.next().await {
            SessionEvent::Opened => {}
            other => panic!("no session: {other:?}"),
        }
    }

    async fn lost(&mut self) -> String {
        match self.next().await {
            SessionEvent::Lost(error) => format!("{error:#}"),
            other => panic!("not lost: {other:?}"),
        }
    }

    fn heard<T>(&self, take: impl FnOnce(&Heard) -> T) -> T {
        take(&self.controller.heard.lock().expect("not poisoned"))
    }

    fn enrollments(&self) -> usize {
        self.heard(|heard| heard.tokens.len())
    }
}

#[tokio::test]
async fn agent_enrolls_by_its_token_and_shows_what_it_got() {
    let mut world = World::whole(USUAL).await;
    world.opened().await;
    assert_eq!(world.heard(|it| it.tokens.clone()), [bearer("secret")]);
    assert_eq!(world.heard(|it| it.sessions.len()), 1);
}

#[tokio::test]
async fn agent_that_is_there_before_the_authority_waits_for_it() {
    let mut world = World::new(USUAL).await;
    world.write("token", "secret");
    let said = world.lost().await;
    assert!(
        said.contains("not known yet") && said.contains("ca.crt"),
        "{said}"
    );
    world.write("ca.crt", "");
    assert!(world.lost().await.contains("is empty"));
    assert_eq!(world.enrollments(), 0);
    world.write("ca.crt", &world.controller.issuer.pem());
    world.opened().await;
}

#[tokio::test]
async fn controller_that_is_not_who_it_should_be_gets_no_token() {
    let mut world = World::whole(USUAL).await;
    world.write("ca.crt", &issuer().pem());
    let said = world.lost().await;
    assert!(
        said.contains("no certificate from the controller"),
        "{said}"
    );
    assert_eq!(world.enrollments(), 0);
    world.write("ca.crt", &world.controller.issuer.pem());
    world.opened().await;
}

#[tokio::test]
async fn certificate_that_the_handshake_refuses_is_replaced() {
    let first_is_old = true;
    let mut world = World::whole(Manner {
        first_is_old,
        ..USUAL
    })
    .await;
    let said = world.lost().await;
    println!("{said}");
    world.opened().await;
    assert_eq!(world.enrollments(), 2);
}

#[tokio::test]
async fn certificate_that_the_controller_refuses_is_replaced() {
    let turns_away = true;
    let mut world = World::whole(Manner {
        turns_away,
        ..USUAL
    })
    .await;
    assert!(world.lost().await.contains("refused the session"));
    world.opened().await;
    assert_eq!(world.enrollments(), 2);
    assert_ne!(
        world.heard(|it| it.sessions[0].clone()),
        world.heard(|it| it.sessions[1].clone())
    );
}

#[tokio::test]
async fn certificate_is_kept_through_a_lost_session_and_renewed_before_it_runs_out() {
    let lives = &[3, 3_600];
    let mut world = World::whole(Manner { lives, ..USUAL }).await;
    world.opened().await;
    world
        .controller
        .heard
        .lock()
        .expect("not poisoned")
        .open
        .clear();
    world.lost().await;
    world.opened().await;
    assert_eq!(world.enrollments(), 1, "the same certificate");
    match world.next().await {
        SessionEvent::Renewed => {}
        other => panic!("not renewed: {other:?}"),
    }
    world.opened().await;
    assert_eq!(world.enrollments(), 2);
    let shown = world.heard(|it| it.sessions.clone());
    assert_eq!(shown[0], shown[1]);
    assert_ne!(shown[1], shown[2]);
}
