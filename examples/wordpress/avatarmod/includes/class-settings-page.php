<?php
/**
 * Settings, Avatar moderation: one connection to paste, a test, and how things stand.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** For who may manage options. */
final class Settings_Page {

	private const SLUG  = 'avatarmod';
	private const TEST  = 'avatarmod_test';
	private const CHECK = 'avatarmod_check_all';

	/** Answer the hooks of the dashboard. */
	public static function hook(): void {
		add_action( 'admin_menu', array( self::class, 'menu' ) );
		add_action( 'admin_init', array( self::class, 'register' ) );
		add_action( 'admin_post_' . self::TEST, array( self::class, 'test' ) );
		add_action( 'admin_post_' . self::CHECK, array( self::class, 'check_all' ) );
		add_filter( 'plugin_action_links_' . plugin_basename( PLUGIN_FILE ), array( self::class, 'links' ) );
	}

	/** The page. */
	public static function menu(): void {
		$title = __( 'Avatar moderation', 'avatarmod' );
		add_options_page( $title, $title, 'manage_options', self::SLUG, array( self::class, 'show' ) );
	}

	/** The option. */
	public static function register(): void {
		register_setting(
			self::SLUG,
			Settings::OPTION,
			array(
				'type'              => 'array',
				'sanitize_callback' => array( self::class, 'sanitize' ),
			)
		);
	}

	/** What is kept of what was sent; a connection that cannot be read changes nothing. */
	public static function sanitize( $given ): array {
		$given      = is_array( $given ) ? $given : array();
		$connection = trim( (string) ( $given['connection'] ?? '' ) );
		if ( '' === $connection ) {
			$connection = Settings::connection();
		} elseif ( null === Settings::parse( $connection ) ) {
			add_settings_error( Settings::OPTION, 'connection', __( 'This is no connection; paste the whole line that `avatarmod keys connect` prints.', 'avatarmod' ) );
			$connection = Settings::connection();
		} else {
			Settings::note( 'fault', null );
			Settings::note( 'connected_at', Settings::noted( 'connected_at' ) ?? time() );
			Schedule::look_at_all();
		}
		return array(
			'connection'    => $connection,
			'own_field'     => ! empty( $given['own_field'] ),
			'keep_existing' => ! empty( $given['keep_existing'] ),
		);
	}

	/** A link in the list of plugins. */
	public static function links( array $links ): array {
		$link = sprintf( '<a href="%s">%s</a>', esc_url( self::address() ), esc_html__( 'Settings', 'avatarmod' ) );
		return array_merge( array( $link ), $links );
	}

	/** Ask the service, and come back. */
	public static function test(): void {
		self::check( self::TEST );
		self::try_connection();
		wp_safe_redirect( self::address() );
		exit;
	}

	/** Look at everybody's picture, in the background. */
	public static function check_all(): void {
		self::check( self::CHECK );
		Schedule::look_at_all();
		wp_safe_redirect( self::address() );
		exit;
	}

	/**
	 * What the service says, also noted for the status: [is well, a sentence].
	 *
	 * @return array{0: bool, 1: string}
	 */
	public static function try_connection(): array {
		$found = self::ask();
		Settings::note( 'test', $found );
		return $found;
	}

	/** Whether the service takes and gives what it should. */
	private static function ask(): array {
		$api = Api::of_site();
		if ( null === $api ) {
			return array( false, __( 'Paste a connection first.', 'avatarmod' ) );
		}
		$answer = $api->changes( '', 1 );
		if ( ! $answer->is_ok() ) {
			/* translators: %s: what was answered. */
			return array( false, sprintf( __( 'Verdicts cannot be read: %s', 'avatarmod' ), $answer->error ) );
		}
		$answer = $api->may_send();
		if ( 422 !== $answer->status ) {
			/* translators: %s: what was answered. */
			return array( false, sprintf( __( 'Pictures cannot be sent: %s', 'avatarmod' ), $answer->error ) );
		}
		Settings::note( 'fault', null );
		return array( true, __( 'The service answers, and the key may send pictures and read verdicts.', 'avatarmod' ) );
	}

	/** The page itself. */
	public static function show(): void {
		if ( ! current_user_can( 'manage_options' ) ) {
			return;
		}
		$is_fixed = defined( 'AVATARMOD_CONNECTION' );
		$is_set   = null !== Settings::parse();
		?>
		<div class="wrap">
			<h1><?php esc_html_e( 'Avatar moderation', 'avatarmod' ); ?></h1>
			<form method="post" action="options.php">
				<?php settings_fields( self::SLUG ); ?>
				<table class="form-table" role="presentation">
					<tr>
						<th scope="row"><label for="avatarmod-connection"><?php esc_html_e( 'Connection', 'avatarmod' ); ?></label></th>
						<td>
							<input type="password" id="avatarmod-connection" class="large-text code" autocomplete="off"
								name="avatarmod[connection]" value="" <?php disabled( $is_fixed ); ?>
								placeholder="<?php echo esc_attr( $is_set ? __( 'set; paste another one to replace it', 'avatarmod' ) : 'https://avm_...@avatars.example.org?secret=whsec_...' ); ?>">
							<p class="description"><?php esc_html_e( 'The line that this command prints on the machine of the service:', 'avatarmod' ); ?>
								<code>avatarmod keys connect <?php echo esc_html( self::name() ); ?></code></p>
							<p class="description"><?php esc_html_e( 'There, set the address of verdicts to:', 'avatarmod' ); ?>
								<code>AVATARMOD_CALLBACK_URL=<?php echo esc_html( Settings::callback_url() ); ?></code></p>
						</td>
					</tr>
					<?php
					self::checkbox( 'own_field', Settings::has_own_field(), __( 'Profile page', 'avatarmod' ), __( 'Users choose their avatar in a field of this plugin', 'avatarmod' ) );
					self::checkbox( 'keep_existing', Settings::keeps_existing(), __( 'Avatars from before', 'avatarmod' ), __( 'Show them until their verdict comes; otherwise the default avatar is shown', 'avatarmod' ) );
					?>
				</table>
				<?php submit_button(); ?>
			</form>
			<h2><?php esc_html_e( 'How it stands', 'avatarmod' ); ?></h2>
			<table class="widefat striped" style="max-width: 60em"><tbody>
				<?php foreach ( self::facts() as $name => $fact ) : ?>
					<tr><th scope="row"><?php echo esc_html( $name ); ?></th><td><?php echo esc_html( $fact ); ?></td></tr>
				<?php endforeach; ?>
			</tbody></table>
			<p>
				<?php
				self::button( self::TEST, __( 'Test the connection', 'avatarmod' ) );
				self::button( self::CHECK, __( 'Look at the avatars of all users', 'avatarmod' ) );
				?>
			</p>
		</div>
		<?php
	}

	/**
	 * Rows of the status.
	 *
	 * @return array<string, string>
	 */
	public static function facts(): array {
		$test   = Settings::noted( 'test' );
		$facts  = array(
			__( 'Connection', 'avatarmod' )         => null === Settings::parse() ? __( 'none', 'avatarmod' ) : Settings::parse()['url'],
			__( 'Last test', 'avatarmod' )          => is_array( $test ) ? $test[1] : '—',
			__( 'Last callback', 'avatarmod' )      => self::ago( Settings::noted( 'called_at' ) ),
			__( 'Verdicts asked for', 'avatarmod' ) => self::ago( Settings::noted( 'reconciled_at' ) ),
			__( 'Background work', 'avatarmod' )    => self::ago( Settings::noted( 'ticked_at' ) ),
		);
		$errors = array_filter( array( Settings::noted( 'fault' ), Settings::noted( 'reconcile_error' ), Settings::noted( 'handler_error' ) ) );
		if ( $errors ) {
			$facts[ __( 'Errors', 'avatarmod' ) ] = implode( ' · ', $errors );
		}
		foreach ( Users_List::counts() as $state => $count ) {
			/* translators: %s: a state, such as "waiting". */
			$name           = sprintf( __( 'Avatar %s', 'avatarmod' ), Users_List::states()[ $state ] ?? $state );
			$facts[ $name ] = number_format_i18n( $count );
		}
		return $facts;
	}

	/** A time in words. */
	public static function ago( $at ): string {
		if ( ! $at ) {
			return __( 'never', 'avatarmod' );
		}
		/* translators: %s: a length of time, such as "3 minutes". */
		return sprintf( __( '%s ago', 'avatarmod' ), human_time_diff( (int) $at ) );
	}

	/** A name for the key. */
	private static function name(): string {
		return sanitize_key( (string) wp_parse_url( home_url(), PHP_URL_HOST ) ) ?: 'wordpress';
	}

	/** Where the page is. */
	private static function address(): string {
		return admin_url( 'options-general.php?page=' . self::SLUG );
	}

	/** Only for who may, and who meant it. */
	private static function check( string $action ): void {
		if ( ! current_user_can( 'manage_options' ) ) {
			wp_die( esc_html__( 'You are not allowed to do this.', 'avatarmod' ), 403 );
		}
		check_admin_referer( $action );
	}

	/** A row with a check box. */
	private static function checkbox( string $name, bool $is_on, string $title, string $label ): void {
		printf(
			'<tr><th scope="row">%s</th><td><label><input type="checkbox" name="avatarmod[%s]" value="1" %s> %s</label></td></tr>',
			esc_html( $title ),
			esc_attr( $name ),
			checked( $is_on, true, false ),
			esc_html( $label )
		);
	}

	/** A form of one button. */
	private static function button( string $action, string $label ): void {
		printf( '<form method="post" action="%s" style="display: inline">', esc_url( admin_url( 'admin-post.php' ) ) );
		printf( '<input type="hidden" name="action" value="%s">', esc_attr( $action ) );
		wp_nonce_field( $action );
		printf( '<button class="button">%s</button></form> ', esc_html( $label ) );
	}
}
